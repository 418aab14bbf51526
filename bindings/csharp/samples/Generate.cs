// Text out of a checkpoint directory:  mono generate.exe DIR [PROMPT]
// mcs -r:Nibble.dll Generate.cs
using System;
using System.IO;
using System.Text;
using Nibble;

internal static class Generate
{
    private static int Main(string[] arguments)
    {
        if (arguments.Length < 1)
        {
            Console.Error.WriteLine("usage: generate DIR [PROMPT]");
            return 2;
        }
        string prompt = arguments.Length > 1 ? arguments[1] : "Once upon a time";
        // UTF-8 whatever the locale says, and each piece at once.
        TextWriter output = new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false)) { AutoFlush = true };
        try
        {
            using (Model model = Model.Load(arguments[0]))
            using (Session session = new Session(model))
            {
                session.AppendText(prompt, TokenizeFlags.AddSpecial);
                output.Write(prompt);
                foreach (string piece in session.Stream(200)) output.Write(piece);
                output.Write("\n");
            }
            return 0;
        }
        catch (NibbleException failure)
        {
            Console.Error.WriteLine(failure.Message);
            return 1;
        }
    }
}
