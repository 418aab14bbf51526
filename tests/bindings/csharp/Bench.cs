// What a token costs on its way out:  mono bench.exe MODEL_DIR [STEPS]   writes "csharp NNN ns/token".
// A batch computes the tokens; the clock runs only while Next hands out those that are ready, so that the figure is the call,
// the text's way to a string, and what the library itself does to give a token. tests/bench/binding_overhead.py puts the
// languages side by side.
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.Linq;
using Nibble;

internal static class Bench
{
    private const int Sessions = 32;
    private const int WarmSteps = 20;

    private static int Main(string[] arguments)
    {
        int steps = arguments.Length > 1 ? int.Parse(arguments[1], CultureInfo.InvariantCulture) : 200;
        using (Model model = Model.Load(arguments[0]))
        using (Batch batch = new Batch(model))
        {
            List<Session> sessions = Enumerable.Range(0, Sessions).Select(seed =>
                new Session(model, new Config { Context = 512 }) { Seed = seed, IgnoreEos = true }).ToList();
            foreach (Session session in sessions)
            {
                session.AppendText("Once upon a time", TokenizeFlags.AddSpecial);
                session.Begin();
                batch.Add(session);
            }
            Stopwatch taking = new Stopwatch();
            int id, bytes = 0;
            string text;
            for (int step = -WarmSteps; step < steps; ++step)
            {
                batch.Step();
                if (step >= 0) taking.Start();
                foreach (Session session in sessions)
                {
                    if (session.Next(out id, out text)) bytes += text.Length;
                }
                taking.Stop();
            }
            Console.WriteLine("csharp {0:0} ns/token", taking.Elapsed.TotalMilliseconds * 1e6 / Sessions / steps);
            return bytes > 0 ? 0 : 1;
        }
    }
}
