// Many sessions of one model at the same time:  mono parallel.exe DIR [SESSIONS [PROMPT]]
// mcs -r:Nibble.dll Parallel.cs
using System;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading.Tasks;
using Nibble;

internal static class Parallel
{
    private const int AnswerTokens = 100;

    private static int Main(string[] arguments)
    {
        if (arguments.Length < 1)
        {
            Console.Error.WriteLine("usage: parallel DIR [SESSIONS [PROMPT]]");
            return 2;
        }
        int sessions = arguments.Length > 1 ? int.Parse(arguments[1], CultureInfo.InvariantCulture) : 8;
        string prompt = arguments.Length > 2 ? arguments[2] : "Once upon a time";
        TextWriter output = new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false)) { AutoFlush = true };
        try
        {
            using (Model model = Model.Load(arguments[0]))
            {
                Task<string>[] answers = Enumerable.Range(0, sessions).Select(seed => Answer(model, prompt, seed)).ToArray();
                for (int seed = 0; seed < sessions; ++seed)
                {
                    string answer = answers[seed].GetAwaiter().GetResult();
                    output.Write("== seed " + seed.ToString(CultureInfo.InvariantCulture) + "\n" + prompt + answer + "\n");
                }
            }
            return 0;
        }
        catch (NibbleException failure)
        {
            Console.Error.WriteLine(failure.Message);
            return 1;
        }
    }

    private static async Task<string> Answer(Model model, string prompt, long seed)
    {
        using (Session session = new Session(model) { Seed = seed }) return await session.GenerateAsync(prompt, AnswerTokens);
    }
}
