// What programs do wrong, or at odd times: nothing of it may crash, hang, corrupt or leak.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Threading;
using System.Threading.Tasks;
using Nibble;

internal static class MisuseTests
{
    private static readonly string expected = Alone("Once upon a time", 60);

    private static string Alone(string prompt, int tokens)
    {
        using (Session session = Story.Greedy()) return session.Generate(prompt, tokens);
    }

    private static Session Endless(Model model = null)
    {
        Session session = new Session(model ?? Story.Model, new Config { IgnoreEos = true });
        session.AppendText("Once upon a time", TokenizeFlags.AddSpecial);
        return session;
    }

    public static void UseAfterDisposeIsAnException()
    {
        int calls = 0;
        foreach (Func<IDisposable> make in new Func<IDisposable>[] {
            () => new Config(), () => Model.Load(Story.Directory), () => Story.Greedy(), () => new Batch(Story.Model),
            () => Model.StartLoad(Story.Directory) })
        {
            IDisposable thing = make();
            thing.Dispose();
            thing.Dispose();
            BindingFlags own = BindingFlags.Public | BindingFlags.Instance | BindingFlags.DeclaredOnly;
            foreach (MethodInfo method in thing.GetType().GetMethods(own))
            {
                bool keeps = method.IsSpecialName && thing is Config || method.Name.StartsWith("set_") ||
                    method.Name.StartsWith("get_Stop") || method.ReturnType.Name.StartsWith("Nullable");
                if (keeps || method.Name == "Dispose" || method.Name == "Cancel") continue;
                object[] arguments = method.GetParameters().Select(parameter => Sample(parameter.ParameterType)).ToArray();
                try
                {
                    object result = method.Invoke(thing, arguments);
                    if (result is IEnumerable<string>) ((IEnumerable<string>)result).Count();
                    if (result is Task) ((Task)result).GetAwaiter().GetResult();
                    Check.True(method.Name == "StreamAsync", method + " of what was disposed");
                }
                catch (TargetInvocationException failure)
                {
                    Check.True(failure.InnerException is ObjectDisposedException, method + ": " + failure.InnerException);
                }
                catch (ObjectDisposedException)
                {
                }
                ++calls;
            }
        }
        Check.True(calls > 60, calls + " calls");
        Session gone = Story.Greedy();
        gone.Dispose();
        gone.Cancel();
        Check.Throws<ObjectDisposedException>(() => gone.Seed = 1);
        Check.Throws<ObjectDisposedException>(() => gone.Stop.Add("x"));
        Config config = new Config();
        config.Dispose();
        Check.Throws<ObjectDisposedException>(() => config.Seed = 1);
        Check.Throws<ObjectDisposedException>(() => new Session(Story.Model, config));
    }

    private static object Sample(Type type)
    {
        if (type.IsByRef) type = type.GetElementType();
        if (type == typeof(string)) return "x";
        if (type == typeof(ChatRequest)) return new ChatRequest(ChatMessage.User("x"));
        if (type == typeof(Session)) return Story.Greedy(16);
        if (type == typeof(Config)) return null;
        if (type.IsArray) return Array.CreateInstance(type.GetElementType(), 0);
        return type.IsValueType ? Activator.CreateInstance(type) : null;
    }

    public static void DisposeWhileAnotherThreadStreams()
    {
        Random random = new Random(3);
        int pieces = 0, disposed = 0;
        for (int round = 0; round < 60; ++round)
        {
            Session session = Endless();
            int pause = random.Next(15);
            Story.InParallel(2, index =>
            {
                if (index == 1)
                {
                    Thread.Sleep(pause);
                    session.Dispose();
                    return;
                }
                try
                {
                    foreach (string piece in session.Stream()) Interlocked.Increment(ref pieces);
                }
                catch (OperationCanceledException)
                {
                    Interlocked.Increment(ref disposed);
                }
                catch (ObjectDisposedException)
                {
                    Interlocked.Increment(ref disposed);
                }
            });
        }
        Check.True(pieces > 0 && disposed > 30, pieces + " pieces, " + disposed + " ended by Dispose");
    }

    public static void DisposeWhileABatchSteps()
    {
        for (int round = 0; round < 10; ++round)
        {
            Batch batch = new Batch(Story.Model);
            List<Session> sessions = Enumerable.Range(0, 8).Select(index => Endless()).ToList();
            foreach (Session session in sessions)
            {
                session.Begin();
                batch.Add(session);
            }
            int steps = 0, gone = 0;
            Story.InParallel(2, index =>
            {
                if (index == 1)
                {
                    while (Volatile.Read(ref steps) < 3) Thread.Sleep(0);
                    foreach (Session session in sessions) session.Dispose();
                    batch.Dispose();
                    Interlocked.Exchange(ref gone, 1);
                    return;
                }
                try
                {
                    while (true)
                    {
                        batch.Step();
                        ++steps;
                        foreach (Session session in sessions)
                        {
                            int id;
                            string text;
                            try
                            {
                                session.Next(out id, out text);
                            }
                            catch (OperationCanceledException)
                            {
                            }
                            catch (ObjectDisposedException)
                            {
                            }
                        }
                    }
                }
                catch (ObjectDisposedException disposed)
                {
                    Check.Equal("Batch", disposed.ObjectName);
                }
            });
            Check.Equal(1, gone);
        }
    }

    public static void CancelAtRandomTimes()
    {
        Random random = new Random(5);
        using (Session session = Endless())
        {
            int cancelled = 0;
            for (int round = 0; round < 60; ++round)
            {
                session.Truncate(0);
                session.AppendText("Once upon a time", TokenizeFlags.AddSpecial);
                bool byToken = round % 2 == 0;
                using (CancellationTokenSource source = new CancellationTokenSource())
                {
                    int pause = random.Next(4000);
                    Task canceller = Task.Run(() =>
                    {
                        Thread.Sleep(TimeSpan.FromTicks(pause * 10));
                        if (byToken) source.Cancel();
                        else session.Cancel();
                    });
                    try
                    {
                        foreach (string piece in session.Stream(400, source.Token)) { }
                    }
                    catch (OperationCanceledException problem)
                    {
                        ++cancelled;
                        Check.True(!byToken || problem.CancellationToken == source.Token, "the token is named");
                        Check.Equal(StopReason.Cancelled, session.StopReason);
                    }
                    canceller.Wait();
                }
            }
            Check.True(cancelled > 20, cancelled + " cancelled");
            session.Truncate(0);
            session.IgnoreEos = false;
            session.Temperature = 0;
            session.RepetitionPenalty = 1;
            Check.Equal(expected, session.Generate("Once upon a time", 60), "it goes on as if nothing had been");
        }
    }

    public static void ACancelledPromptEndsSoonAtWhateverMoment()
    {
        // The reference backend takes seconds for this prompt: a cancel that got lost would be seen as a task that succeeds.
        using (Model slow = Model.Load(Story.Directory, new Config { Device = "ref" }))
        using (Session session = new Session(slow, new Config { PrefillChunk = 8 }))
        {
            int[] ids = Enumerable.Repeat(300, 400).ToArray();
            for (int round = 0; round < 40; ++round)
            {
                using (CancellationTokenSource source = new CancellationTokenSource())
                {
                    Task task = session.AppendAsync(ids, source.Token);
                    if (round % 4 != 0) Thread.Sleep(TimeSpan.FromTicks(round * 1500));
                    source.Cancel();
                    OperationCanceledException cancelled = Check.Throws<OperationCanceledException>(() => task.GetAwaiter().GetResult());
                    Check.True(task.IsCanceled && cancelled.CancellationToken == source.Token, "the task is Canceled by its token");
                }
                session.Truncate(0);
            }
            using (CancellationTokenSource source = new CancellationTokenSource())
            {
                session.AppendAsync(new[] { 0, 300 }, source.Token).GetAwaiter().GetResult();
                source.Cancel();  // too late: nobody's call
                Thread.Sleep(20);
                session.Append(new[] { 300 });
                Check.Equal(3L, session.Tokens);
            }
        }
    }

    public static void CancellingAJobEndsIt()
    {
        for (int round = 0; round < 20; ++round)
        {
            using (Job job = Story.Model.StartBench(new Config { BenchPrompt = { 4 }, BenchDecode = 4, BenchRepeats = 1000 }))
            using (CancellationTokenSource source = new CancellationTokenSource())
            {
                Task<bool> wait = job.WaitAsync(-1, source.Token);
                if (round % 2 == 0) Thread.Sleep(round);
                source.Cancel();
                Check.Throws<OperationCanceledException>(() => wait.GetAwaiter().GetResult());
            }
        }
        Job forgotten = Story.Model.StartBench(new Config { BenchPrompt = { 4 }, BenchDecode = 4, BenchRepeats = 1000 });
        Task<bool> waits = forgotten.WaitAsync();
        Thread.Sleep(20);
        forgotten.Dispose();  // ends the one who waits, too
        try
        {
            waits.GetAwaiter().GetResult();
            Check.True(false, "a disposed job cannot have succeeded");
        }
        catch (OperationCanceledException)
        {
        }
        catch (ObjectDisposedException)
        {
        }
    }

    public static void CollectionsWhileStreaming()
    {
        int over = 0, collections = 0;
        Story.InParallel(4, index =>
        {
            if (index == 0)
            {
                while (Volatile.Read(ref over) < 3)
                {
                    GC.Collect();
                    GC.WaitForPendingFinalizers();
                    ++collections;
                }
                return;
            }
            try
            {
                for (int round = 0; round < 12; ++round)
                {
                    Forget();
                    // Only the enumerator holds the session.
                    Check.Equal(expected, string.Concat(Unheld().Stream(60)), "with the collector at work");
                }
            }
            finally
            {
                Interlocked.Increment(ref over);
            }
        });
        Check.True(collections > 10, collections + " collections");
        Console.WriteLine("        {0} forced collections while 3 threads streamed", collections);
    }

    private static Session Unheld()
    {
        Session session = Story.Greedy();
        session.AppendText("Once upon a time", TokenizeFlags.AddSpecial);
        return session;
    }

    /// <summary>Leaves things of every kind to the collector, in the middle of what they do.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Forget()
    {
        Session session = Endless();
        session.Begin();
        int id;
        string text;
        session.Next(out id, out text);
        session.Stream().GetEnumerator().MoveNext();
        new Batch(Story.Model, new Config()).Add(session);
        Model.StartLoad(Story.Directory);
    }

    public static void SixtyFourSessionsAtOnce()
    {
        string[] texts = new string[64];
        Story.InParallel(64, index =>
        {
            using (Session session = Story.Greedy(128)) texts[index] = session.Generate("Once upon a time", 60);
        });
        foreach (string text in texts) Check.Equal(expected, text);
    }

    public static void TwoThreadsOnOneSessionAreToldApart()
    {
        using (Session session = Endless())
        {
            int busy = 0, odd = 0, over = 0;
            Story.InParallel(3, index =>
            {
                while (Volatile.Read(ref busy) < 20 && Volatile.Read(ref over) < 100000)
                {
                    Interlocked.Increment(ref over);
                    try
                    {
                        session.Truncate(0);
                        session.Generate("One day", 5);
                    }
                    catch (NibbleException failure)
                    {
                        if (failure.Status == Status.Busy) Interlocked.Increment(ref busy);
                        else if (failure.Status != Status.State && failure.Status != Status.ContextFull) Interlocked.Increment(ref odd);
                    }
                }
            });
            Check.True(busy >= 20 && odd == 0, busy + " busy, " + odd + " odd");
        }
    }

    public static void TenThousandSessionsDoNotGrowTheProcess()
    {
        Action<int> cycles = count =>
        {
            for (int i = 0; i < count; ++i)
            {
                using (Config config = new Config { Context = 64, Temperature = 0.5, Stop = { "x" } })
                using (Session session = new Session(Story.Model, config))
                {
                    session.TopK = 5;
                    if (i % 100 == 0) session.Generate("One", 2);
                }
            }
            GC.Collect();
            GC.WaitForPendingFinalizers();
        };
        cycles(10000);  // until the allocators have settled
        long before = Story.ResidentBytes();
        cycles(10000);
        long grown = Story.ResidentBytes() - before;
        Console.WriteLine("        10,000 sessions and configs made and disposed: resident memory {0:+#,0;-#,0;0} KiB of {1:#,0} KiB",
            grown / 1024, before / 1024);
        Check.True(grown < 2 << 20, grown + " bytes");  // a leak of 210 bytes a cycle would be seen
    }

    public static void ForgottenSessionsAreReleasedByTheCollector()
    {
        Action<int> forget = times =>
        {
            for (int i = 0; i < times; ++i) Made(new Session(Story.Model, new Config { Context = 512 }));
            GC.Collect();
            GC.WaitForPendingFinalizers();
        };
        forget(200);
        long before = Story.ResidentBytes();
        const int count = 2000;
        forget(count);
        long grown = Story.ResidentBytes() - before, all = count * sessionBytes;
        Console.WriteLine("        {0:#,0} sessions of {1:#,0} KiB forgotten: resident memory {2:+#,0;-#,0;0} KiB", count,
            sessionBytes / 1024, grown / 1024);
        Check.True(grown < all / 4, grown + " bytes of " + all);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Made(Session session)
    {
        sessionBytes = session.Bytes;
    }

    private static long sessionBytes;

    public static void DisposingInEveryOrder()
    {
        for (int order = 0; order < 120; ++order)
        {
            Model model = Model.Load(Story.Directory);
            Config config = new Config { Temperature = 0, RepetitionPenalty = 1 };
            Session session = new Session(model, config);
            Batch batch = new Batch(model);
            Job job = model.StartBench(new Config { BenchPrompt = { 4 }, BenchDecode = 4, BenchRepeats = 1000 });
            batch.Add(session);
            List<IDisposable> things = new List<IDisposable> { model, config, session, batch, job };
            for (int rest = order, count = 5; count > 0; rest /= count, --count)
            {
                IDisposable thing = things[rest % count];
                things.Remove(thing);
                thing.Dispose();
                // Who lives goes on, whatever else is gone.
                if (order % 10 == 0 && things.Contains(session))
                {
                    session.Truncate(0);
                    Check.True(expected.StartsWith(session.Generate("Once upon a time", 10)), "order " + order);
                }
            }
        }
    }

    public static void AnExceptionOfTheHostLeavesASessionUsable()
    {
        using (Session session = Story.Greedy())
        {
            for (int round = 0; round < 10; ++round)
            {
                session.Truncate(0);
                session.AppendText("Once upon a time", TokenizeFlags.AddSpecial);
                string seen = "";
                Check.Throws<FormatException>(() =>
                {
                    foreach (string piece in session.Stream(60))
                    {
                        seen += piece;
                        if (seen.Length > 5 * round) throw new FormatException();
                    }
                });
                foreach (string piece in Rest(session)) seen += piece;
                Check.Equal(expected, seen, "nothing was lost");
            }
        }
    }

    /// <summary>What a generation that was left still has to give.</summary>
    private static IEnumerable<string> Rest(Session session)
    {
        int id;
        string text;
        while (session.Next(out id, out text)) yield return text;
    }
}

/// <summary>Ends the process with everything alive: a thread that streams, a job that runs, handles of every kind.</summary>
internal static class ExitAlive
{
    private static readonly List<object> alive = new List<object>();

    internal static int Run()
    {
        Session quiet = Story.Greedy(), streaming = Story.Greedy();
        Batch batch = new Batch(Story.Model);
        batch.Add(quiet);
        alive.AddRange(new object[] { quiet, streaming, batch, new Config(), Model.StartLoad(Story.Directory),
            Story.Model.StartBench(new Config { BenchPrompt = { 4 }, BenchDecode = 4, BenchRepeats = 1000 }) });
        streaming.IgnoreEos = true;
        int pieces = 0;
        Thread thread = new Thread(() =>
        {
            while (true)
            {
                streaming.Truncate(0);
                streaming.AppendText("Once", 0);
                foreach (string piece in streaming.Stream(300)) Interlocked.Increment(ref pieces);
            }
        }) { IsBackground = true };
        thread.Start();
        while (Volatile.Read(ref pieces) < 10) Thread.Sleep(1);
        return 0;
    }
}
