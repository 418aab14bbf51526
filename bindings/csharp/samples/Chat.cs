// A conversation; Ctrl-C ends the answer, at the prompt the program:  mono chat.exe DIR [SEED [DEVICE]]
// mcs -r:Nibble.dll Chat.cs
using System;
using System.Globalization;
using System.IO;
using System.Text;
using System.Threading;
using Nibble;

internal static class Chat
{
    private const int AnswerTokens = 200;
    private static CancellationTokenSource answering;  // null at the prompt

    private static int Main(string[] arguments)
    {
        if (arguments.Length < 1)
        {
            Console.Error.WriteLine("usage: chat DIR [SEED [DEVICE]]");
            return 2;
        }
        // A terminal is read by Console, which echoes what is typed.
        TextReader input = Console.IsInputRedirected ? new StreamReader(Console.OpenStandardInput(), new UTF8Encoding(false)) : Console.In;
        TextWriter output = new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false)) { AutoFlush = true };
        Console.CancelKeyPress += (sender, key) =>
        {
            CancellationTokenSource answer = Volatile.Read(ref answering);
            if (answer == null) Environment.Exit(0);
            key.Cancel = true;  // the program goes on
            answer.Cancel();
        };
        try
        {
            Config config = new Config();
            if (arguments.Length > 1) config.Seed = long.Parse(arguments[1], CultureInfo.InvariantCulture);
            if (arguments.Length > 2) config.Device = arguments[2];
            using (config)
            using (Model model = Model.Load(arguments[0], config))
            using (Session session = new Session(model, config))
            {
                Talk(session, input, output);
            }
            return 0;
        }
        catch (NibbleException failure)
        {
            Console.Error.WriteLine(failure.Message);
            return 1;
        }
    }

    private static void Talk(Session session, TextReader input, TextWriter output)
    {
        ChatRequest conversation = new ChatRequest();
        for (;;)
        {
            output.Write("> ");
            string line = input.ReadLine();
            if (line == null) return;
            if (line.Length == 0) continue;
            conversation.Messages.Add(ChatMessage.User(line));
            StringBuilder answer = new StringBuilder();
            using (CancellationTokenSource cancel = new CancellationTokenSource())
            {
                Volatile.Write(ref answering, cancel);
                try
                {
                    session.AppendChatAsync(conversation, cancel.Token).GetAwaiter().GetResult();
                    foreach (string piece in session.Stream(AnswerTokens, cancel.Token))
                    {
                        output.Write(piece);
                        answer.Append(piece);
                    }
                    output.Write("\n");
                }
                catch (OperationCanceledException)
                {
                    output.Write("[stopped]\n");
                }
                finally
                {
                    Volatile.Write(ref answering, null);
                }
            }
            conversation.Messages.Add(ChatMessage.Assistant(answer.ToString()));
        }
    }
}
