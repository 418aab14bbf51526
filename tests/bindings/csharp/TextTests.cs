// Texts both ways: every character, NUL, nothing, ten megabytes, and what is no text.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;
using System.Text;
using System.Text.RegularExpressions;
using Nibble;

internal static class TextTests
{
    private static string RoundTrip(string text)
    {
        return Story.Model.Detokenize(Story.Model.Tokenize(text, TokenizeFlags.SpellSpecial), 0);
    }

    public static void EveryKindOfCharacterComesBack()
    {
        StringBuilder all = new StringBuilder();
        for (int c = 1; c < 0x110000; c += c < 0x3000 ? 1 : 97)
        {
            if (c < 0xd800 || c > 0xdfff) all.Append(char.ConvertFromUtf32(c));
        }
        string[] texts = { "", " ", "a", "h\u00e9llo \U0001f999!", "\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d", all.ToString() };
        foreach (string text in texts) Check.Equal(text, RoundTrip(text));
    }

    public static void NulIsACharacter()
    {
        Check.Equal("a\0b", RoundTrip("a\0b"));
        Check.Equal("\0", RoundTrip("\0"));
        using (Session session = Story.Greedy())
        {
            session.AppendText("a\0b", 0);
            Check.Equal((long)Story.Model.Tokenize("a\0b", 0).Length, session.Tokens);
        }
        string rendered = Story.Model.RenderChat(new ChatRequest(ChatMessage.User("a\0b")));
        Check.True(rendered.IndexOf("a\0b", StringComparison.Ordinal) > 0, "in a message");
        using (Config config = new Config { Stop = { "a\0b" } }) Check.True(config.ToJson().Contains("a\\u0000b"), config.ToJson());
    }

    public static void NothingIsAText()
    {
        Check.Equal(0, Story.Model.Tokenize("", 0).Length);
        Check.Equal("", Story.Model.Detokenize(new int[0], 0));
        Check.Fails(Status.NotFound, () => Model.Load(""));
        using (Session session = Story.Greedy())
        {
            session.AppendText("", 0);
            Check.Equal(0L, session.Tokens);
            session.Append(new int[0]);
            Check.Fails(Status.State, () => session.Begin());
        }
    }

    public static void TenMegabytesComeBack()
    {
        StringBuilder text = new StringBuilder();
        for (int i = 0; text.Length < 10 << 20; ++i) text.Append("The ").Append(i).Append(". l\u00e4uft \U0001f415 und ");
        string whole = text.ToString();
        int[] ids = Story.Model.Tokenize(whole, 0);
        Check.True(ids.Length > 1 << 20, "many tokens");
        Check.Equal(whole, Story.Model.Detokenize(ids, 0));
        string rendered = Story.Model.RenderChat(new ChatRequest(ChatMessage.User(whole)));
        Check.True(rendered.IndexOf(whole, StringComparison.Ordinal) > 0, "in a message");
        using (Session session = Story.Greedy()) Check.Fails(Status.ContextFull, () => session.AppendText(whole.Substring(0, 100000), 0));
    }

    public static void HalfOfAPairIsRefusedWithItsIndex()
    {
        foreach (KeyValuePair<string, int> bad in new Dictionary<string, int> { { "\ud83d", 0 }, { "ab\udc15c", 2 },
            { "\U0001f415\ud83d\ud83d", 2 }, { "x\ud83dy", 1 }, { "\udc15\ud83d", 0 } })
        {
            string at = "index " + bad.Value;
            using (Config config = new Config())
            using (Session session = Story.Greedy())
            {
                List<Action> calls = new List<Action>
                {
                    () => Story.Model.Tokenize(bad.Key, 0), () => Story.Model.TokenizeSpans(bad.Key, 0),
                    () => Model.Load(bad.Key), () => Model.Inspect(bad.Key),
                    () => config.Device = bad.Key, () => config.Stop.Add(bad.Key), () => config.MergeJson(bad.Key),
                    () => session.AppendText(bad.Key, 0), () => session.Generate(bad.Key), () => session.AppendChat(bad.Key),
                    () => session.Stop.Add(bad.Key), () => Story.Model.RenderChat(bad.Key),
                    () => Story.Model.StartPerplexity(bad.Key), () => Model.Synthesize(bad.Key),
                    () => session.AppendChat(new ChatRequest(ChatMessage.User("fine"), ChatMessage.User(bad.Key))),
                    () => Story.Model.RenderChat(new ChatRequest(new ChatMessage(bad.Key, "fine"))),
                    () => new ChatRequest(ChatMessage.User("fine")) { Template = bad.Key }.ToJson(),
                };
                foreach (Action call in calls)
                {
                    ArgumentException refused = Check.Throws<ArgumentException>(call);
                    Check.True(refused.Message.Contains(at), at + " in " + refused.Message);
                    Check.True(!string.IsNullOrEmpty(refused.ParamName), "the parameter is named");
                }
                Check.Equal(0, config.Stop.Count, "what was refused is not kept");
            }
        }
        ArgumentException which = Check.Throws<ArgumentException>(
            () => new ChatRequest(ChatMessage.User("fine"), ChatMessage.User("ab\ud83d")).ToJson());
        Check.True(which.Message.Contains("Messages[1].Content") && which.Message.Contains("index 2"), which.Message);
    }

    public static void MessagesAreEscaped()
    {
        StringBuilder every = new StringBuilder();
        for (char c = '\0'; c < '\u3000'; ++c) every.Append(c);
        every.Append("\U0001f415\uffff\"\\/\u2028\u2029</script>");
        string content = every.ToString();
        string rendered = Story.Model.RenderChat(new ChatRequest(ChatMessage.User(content)));
        Check.Equal("<|endoftext|><|user|>" + content + "<|assistant|>", rendered);
    }

    public static void RequestsSayWhatWasAskedFor()
    {
        ChatMessage call = new ChatMessage("assistant", null) { Fields = { { "tool_calls", "[{\"name\": \"f\"}]" } } };
        ChatRequest request = new ChatRequest(ChatMessage.System("s"), call) { AddGenerationPrompt = false, SpellSpecial = true,
            Tools = "[]", Template = "t", Fields = { { "x", "1" } } };
        Check.Equal("{\"messages\":[{\"role\":\"system\",\"content\":\"s\"}," +
                    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"name\": \"f\"}]}]," +
                    "\"add_generation_prompt\":false,\"spell_special\":true,\"tools\":[],\"template\":\"t\",\"x\":1}", request.ToJson());
        ChatRequest open = new ChatRequest(ChatMessage.User("hi"), ChatMessage.Assistant("Once")) { ContinueFinalMessage = true };
        Check.Equal("<|endoftext|><|user|>hi<|assistant|>Once", Story.Model.RenderChat(open));
        using (Session session = Story.Greedy())
        {
            session.AppendChat(new ChatRequest(ChatMessage.User("<|user|>")));
            long special = session.Tokens;
            session.AppendChat(new ChatRequest(ChatMessage.User("<|user|>")) { SpellSpecial = true });
            Check.True(session.Tokens > special, "a control token that a user wrote is ordinary text");
        }
    }

    public static void PiecesAreWholeCharacters()
    {
        using (Session session = Story.Greedy())
        {
            // A bias makes the model write one token for ever: a byte of a character that has several.
            int[] dog = Story.Model.Tokenize("\U0001f415", TokenizeFlags.SpellSpecial);
            Check.True(dog.Length > 1, "several tokens for a character");
            session.Append(Story.Model.Tokenize("The dog ", 0));
            string text = "";
            for (int i = 0; i < 8; ++i)
            {
                session.SetBias(new[] { dog[i % dog.Length] }, new[] { 10000f });
                session.Begin(1);
                text += string.Concat(session.Stream(1));
            }
            Check.Equal(-1, FirstInvalid(text), text);
            session.SetBias(new int[0], new float[0]);
        }
    }

    private static int FirstInvalid(string text)
    {
        for (int i = 0; i < text.Length; ++i)
        {
            if (char.IsSurrogatePair(text, i < text.Length - 1 ? i : 0) && char.IsHighSurrogate(text[i])) ++i;
            else if (char.IsSurrogate(text[i])) return i;
        }
        return -1;
    }

    /// <summary>Every public method, with null for one argument at a time.</summary>
    public static void NullIsRefusedByName()
    {
        using (Config config = new Config())
        using (Session session = Story.Greedy())
        using (Batch batch = new Batch(Story.Model))
        {
            int checkedArguments = 0;
            object[] instances = { null, config, Story.Model, session, batch };
            foreach (object instance in instances)
            {
                Type[] types = instance == null ? new[] { typeof(Model), typeof(Config) } : new[] { instance.GetType() };
                BindingFlags flags = BindingFlags.Public | BindingFlags.DeclaredOnly;
                flags |= instance == null ? BindingFlags.Static : BindingFlags.Instance;
                foreach (MethodInfo method in types.SelectMany(type => type.GetMethods(flags)))
                {
                    if (method.IsSpecialName || method.Name.EndsWith("Async")) continue;
                    ParameterInfo[] parameters = method.GetParameters();
                    for (int i = 0; i < parameters.Length; ++i)
                    {
                        if (parameters[i].ParameterType.IsValueType || parameters[i].IsOptional || parameters[i].IsOut) continue;
                        object[] arguments = parameters.Select((parameter, index) =>
                            index == i ? null : Sample(parameter.ParameterType)).ToArray();
                        Exception thrown = null;
                        try
                        {
                            object result = method.Invoke(instance, arguments);
                            if (result is IEnumerable<string>) ((IEnumerable<string>)result).Count();
                        }
                        catch (TargetInvocationException failure)
                        {
                            thrown = failure.InnerException;
                        }
                        Check.True(thrown is ArgumentNullException && ((ArgumentNullException)thrown).ParamName == parameters[i].Name,
                            method + " " + parameters[i].Name + ": " + thrown);
                        ++checkedArguments;
                    }
                }
            }
            Check.Throws<ArgumentNullException>(() => new Session(null));
            Check.Throws<ArgumentNullException>(() => new Batch(null));
            Check.True(checkedArguments > 20, checkedArguments + " arguments");
        }
    }

    private static object Sample(Type type)
    {
        if (type == typeof(string)) return "x";
        if (type.IsArray) return Array.CreateInstance(type.GetElementType(), 0);
        return type.IsValueType ? Activator.CreateInstance(type) : null;
    }
}
