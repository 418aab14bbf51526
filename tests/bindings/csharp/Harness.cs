// The tests' own small runner (Debian has no NUnit): every public static method of a class whose name ends in Tests.
//   mono tests.exe MODEL_DIR [CLASS | CLASS.METHOD]
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Text.RegularExpressions;
using System.Threading;
using Nibble;

internal sealed class CheckFailed : Exception
{
    internal CheckFailed(string message) : base(message) { }
}

internal static class Check
{
    internal static void True(bool truth, string what)
    {
        if (!truth) throw new CheckFailed(what);
    }

    internal static void Equal<T>(T expected, T found, string what = "")
    {
        if (EqualityComparer<T>.Default.Equals(expected, found)) return;
        throw new CheckFailed(what + ": expected [" + expected + "], found [" + found + "]");
    }

    internal static void Same<T>(IEnumerable<T> expected, IEnumerable<T> found, string what = "")
    {
        if (expected.SequenceEqual(found)) return;
        throw new CheckFailed(what + ": expected [" + string.Join(" ", expected) + "], found [" + string.Join(" ", found) + "]");
    }

    internal static T Throws<T>(Action action, string what = "") where T : Exception
    {
        try
        {
            action();
        }
        catch (T expected)
        {
            return expected;
        }
        catch (Exception other)
        {
            throw new CheckFailed(what + ": expected " + typeof(T).Name + ", found " + other);
        }
        throw new CheckFailed(what + ": expected " + typeof(T).Name + ", nothing was thrown");
    }

    internal static NibbleException Fails(Status status, Action action)
    {
        NibbleException failure = Throws<NibbleException>(action);
        Equal(status, failure.Status, failure.Message);
        return failure;
    }
}

/// <summary>The model of all tests, and what transformers said of it (golden.json).</summary>
internal static class Story
{
    internal static string Directory;
    private static Model model;

    internal static Model Model { get { return model ?? (model = Nibble.Model.Load(Directory)); } }

    internal static Session Greedy(long context = 0)
    {
        Session session = new Session(Model, new Config { Context = context });
        session.Temperature = 0;
        session.RepetitionPenalty = 1;
        return session;
    }

    /// <summary>The field of one prompt of golden.json: a JSON string or an array of numbers, as text.</summary>
    internal static string Golden(string prompt, string field)
    {
        string json = File.ReadAllText(Path.Combine(Directory, "golden.json"));
        int at = json.IndexOf("\"name\": \"" + prompt + "\"", StringComparison.Ordinal);
        Match found = Regex.Match(json.Substring(at), "\"" + field + "\":\\s*(?:\"((?:[^\"\\\\]|\\\\.)*)\"|\\[([^\\]]*)\\])");
        return Regex.Unescape(found.Groups[1].Success ? found.Groups[1].Value : found.Groups[2].Value);
    }

    internal static int[] GoldenIds(string prompt, string field)
    {
        return Golden(prompt, field).Split(',').Select(text => int.Parse(text.Trim())).ToArray();
    }

    internal static void InParallel(int count, Action<int> work)
    {
        Exception failure = null;
        Thread[] threads = Enumerable.Range(0, count).Select(index => new Thread(() =>
        {
            try
            {
                work(index);
            }
            catch (Exception problem)
            {
                Interlocked.CompareExchange(ref failure, problem, null);
            }
        })).ToArray();
        foreach (Thread thread in threads) thread.Start();
        foreach (Thread thread in threads) thread.Join();
        if (failure != null) throw new CheckFailed(failure.ToString());
    }

    /// <summary>Bytes of memory that the process has now.</summary>
    internal static long ResidentBytes()
    {
        return long.Parse(File.ReadAllText("/proc/self/statm").Split(' ')[1]) * 4096;
    }
}

internal static class Runner
{
    private static int Main(string[] arguments)
    {
        Story.Directory = arguments[0];
        string wanted = arguments.Length > 1 ? arguments[1] : "";
        if (wanted == "exit") return ExitAlive.Run();
        int passed = 0, failed = 0;
        IEnumerable<MethodInfo> tests = Assembly.GetExecutingAssembly().GetTypes().Where(type => type.Name.EndsWith("Tests"))
            .OrderBy(type => type.Name).SelectMany(type =>
                type.GetMethods(BindingFlags.Public | BindingFlags.Static | BindingFlags.DeclaredOnly));
        foreach (MethodInfo test in tests)
        {
            string name = test.DeclaringType.Name + "." + test.Name;
            if (wanted != "" && name != wanted && test.DeclaringType.Name != wanted) continue;
            Stopwatch clock = Stopwatch.StartNew();
            try
            {
                test.Invoke(null, null);
                ++passed;
                Console.WriteLine("ok      {0} ({1} ms)", name, clock.ElapsedMilliseconds);
            }
            catch (TargetInvocationException failure)
            {
                ++failed;
                Console.WriteLine("FAILED  {0}: {1}", name, failure.InnerException);
            }
        }
        Console.WriteLine("{0} passed, {1} failed", passed, failed);
        return failed == 0 && passed > 0 ? 0 : 1;
    }
}
