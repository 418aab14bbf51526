// What the methods give, beside what transformers and the tokenizers library gave for the same checkpoint (golden.json).
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;
using Nibble;

internal static class ModelTests
{
    public static void TokenizesAsOtherToolsDo()
    {
        int[] ids = Story.GoldenIds("plain", "ids");
        string text = Story.Golden("plain", "text");
        Check.Same(ids, Story.Model.Tokenize(text, TokenizeFlags.AddSpecial));
        Check.Equal(text, Story.Model.Detokenize(ids, DetokenizeFlags.SkipSpecial));
        Check.Equal(text, string.Concat(ids.Skip(1).Select(id => System.Text.Encoding.UTF8.GetString(Story.Model.GetTokenBytes(id)))));
    }

    public static void SpansCoverTheText()
    {
        TokenSpan[] spans = Story.Model.TokenizeSpans("Once upon a time", TokenizeFlags.AddSpecial);
        Check.True(spans[0].Begin == spans[0].End, "the added token has no text");
        Check.Equal(0L, spans[1].Begin);
        for (int i = 2; i < spans.Length; ++i) Check.Equal(spans[i - 1].End, spans[i].Begin);
        Check.Equal(16L, spans[spans.Length - 1].End);
        Check.Same(Story.Model.Tokenize("Once upon a time", TokenizeFlags.AddSpecial), spans.Select(span => span.Id));
    }

    public static void ContinuesAsTransformersDoes()
    {
        string expected = Story.Golden("plain", "greedy64_text");
        using (Session session = Story.Greedy())
        {
            Check.True(expected.StartsWith(session.Generate(Story.Golden("plain", "text"), 40), StringComparison.Ordinal), "generate");
            Check.Equal(StopReason.MaxTokens, session.StopReason);
            Check.Equal(40L, session.GeneratedTokens);
            int prompt = Story.GoldenIds("plain", "ids").Length;
            Check.Same(Story.GoldenIds("plain", "greedy64").Take(40), session.GetTokens(prompt));
            session.Truncate(prompt);
            string streamed = "";
            session.Truncate(0);
            session.Append(Story.GoldenIds("plain", "ids"));
            foreach (string piece in session.Stream(40)) streamed += piece;
            Check.True(expected.StartsWith(streamed, StringComparison.Ordinal) && streamed.Length > 60, "stream: " + streamed);
        }
    }

    public static void ChatsAsTransformersDoes()
    {
        ChatRequest request = new ChatRequest(ChatMessage.User("Tell me a story about a girl named Maya."));
        Check.Equal(Story.Golden("chat", "rendered"), Story.Model.RenderChat(request));
        using (Session session = Story.Greedy())
        {
            session.AppendChat(request);
            Check.Same(Story.GoldenIds("chat", "ids"), session.GetTokens(0));
            string answer = string.Concat(session.Stream(40));
            Check.True(Story.Golden("chat", "greedy64_text").StartsWith(answer, StringComparison.Ordinal), answer);
            request.Messages.Add(ChatMessage.Assistant(answer));
            request.Messages.Add(ChatMessage.User("Another one."));
            session.AppendChat(request);
            Check.True(session.ReusedTokens >= Story.GoldenIds("chat", "ids").Length,
                "the first turn is in the cache: " + session.ReusedTokens);
        }
    }

    public static void ProbabilitiesAgreeWithEachOther()
    {
        int[] ids = Story.GoldenIds("plain", "ids");
        using (Session session = Story.Greedy())
        {
            session.Append(ids);
            float[] logits = session.GetLogits();
            Check.Equal(Story.Model.Vocabulary, (long)logits.Length);
            double sum = logits.Select(logit => Math.Exp(logit - logits.Max())).Sum();
            TokenProbability[] top = session.GetTop(5);
            Check.Equal(5, top.Length);
            Check.Equal(Story.GoldenIds("plain", "greedy64")[0], top[0].Id, "the greedy choice");
            foreach (TokenProbability row in top)
            {
                double expected = logits[row.Id] - logits.Max() - Math.Log(sum);
                Check.True(Math.Abs(row.LogProbability - expected) < 1e-4, "log softmax of " + row.Id);
            }
            float[] scores = session.Score(new[] { top[1].Id });
            Check.True(Math.Abs(scores[0] - top[1].LogProbability) < 1e-3, "score " + scores[0] + " beside " + top[1].LogProbability);
            session.Truncate(0);
            session.SetBias(new[] { 700 }, new[] { 1000f });
            session.Append(ids);
            session.Begin(3);
            int id;
            string text;
            Check.True(session.Next(out id, out text) && id == 700, "the biased token");
            session.SetBias(new int[0], new float[0]);
        }
    }

    public static void OptionsArriveAndAreChecked()
    {
        using (Config config = new Config { Context = 128, Temperature = 0.5, TopK = 7, IgnoreEos = true, KvDtype = "f32",
            Stop = { "one", "two" }, StopIds = { 5, 6 } })
        {
            Check.Equal(128L, config.Context);
            Check.Same(new[] { "one", "two" }, config.Stop);
            string json = config.ToJson();
            foreach (string part in new[] { "\"context\":128", "\"top_k\":7", "\"ignore_eos\":1", "\"kv_dtype\":\"f32\"",
                "[\"one\",\"two\"]", "\"5\",\"6\"" })
            {
                Check.True(json.Replace(" ", "").Contains(part), part + " in " + json);
            }
            Check.Fails(Status.OptionValue, () => config.TopP = 1.5);
            Check.Equal(null, config.TopP, "what was refused is not kept");
            Check.Fails(Status.OptionValue, () => config.SetDouble(Option.TopK, 1));
            Check.Fails(Status.UnknownOption, () => config.SetInt64((Option)999999, 1));
            Check.Throws<InvalidOperationException>(() => config.Context = null);
            Check.Throws<InvalidOperationException>(() => config.Stop.Clear());
            config.MergeJson("{\"temperature\": 0.25, \"max_length\": 77}");
            Check.True(config.ToJson().Contains("77"), config.ToJson());
            using (Session session = new Session(Story.Model, config))
            {
                Check.Equal(128L, session.Context);
                session.Seed = 9;
                Check.True(session.Describe().Contains("\"seed\":9") || session.Describe().Contains("\"seed\": 9"), session.Describe());
                session.Seed = null;
                Check.Fails(Status.OptionValue, () => session.SetInt64(Option.Context, 5));
            }
        }
    }

    public static void TheSameSeedGivesTheSameText()
    {
        Func<long, string> story = seed =>
        {
            using (Session session = new Session(Story.Model) { Seed = seed }) return session.Generate("Once upon a time", 40);
        };
        Check.Equal(story(4), story(4));
        Check.True(story(4) != story(5), "two seeds");
    }

    public static void StopsWhereItIsTold()
    {
        using (Session session = Story.Greedy())
        {
            session.Stop.Add("magic");
            string prompt = Story.Golden("plain", "text");
            Check.Equal(" He had a black cat. But his ", session.Generate(prompt, 60));
            Check.Equal(StopReason.String, session.StopReason);
            // A list can be changed at any place.
            session.Stop.Add("zzz");
            session.Stop.Insert(1, "black");
            session.Stop.RemoveAt(0);
            Check.Same(new[] { "black", "zzz" }, session.Stop);
            session.Truncate(0);
            Check.Equal(" He had a ", session.Generate(prompt, 60));
            session.Stop[0] = "cat";
            session.Truncate(0);
            Check.Equal(" He had a black ", session.Generate(prompt, 60));
            session.Stop.Clear();
            session.StopIds.Add(Story.GoldenIds("plain", "greedy64")[2]);
            session.Truncate(0);
            session.Generate(prompt, 60);
            Check.Equal(StopReason.Id, session.StopReason);
            Check.Equal(3L, session.GeneratedTokens);
        }
    }

    public static void FailuresSayWhatIsWrong()
    {
        NibbleException missing = Check.Fails(Status.NotFound, () => Model.Load("/there/is/no/such/directory"));
        Check.True(missing.Message.Contains("/there/is/no/such/directory"), missing.Message);
        Check.True(missing.Detail.StartsWith("{") && missing.Detail.Contains("/there/is/no/such/directory"), missing.Detail);
        using (Session session = Story.Greedy(16))
        {
            Check.Fails(Status.State, () => session.Begin());
            int id;
            string text;
            Check.Fails(Status.State, () => session.Next(out id, out text));
            Check.Fails(Status.ContextFull, () => session.Append(new int[17]));
            Check.Fails(Status.Argument, () => session.Append(new[] { 1 << 30 }));
            Check.Fails(Status.Argument, () => session.AppendChat("{}"));
            session.Append(new[] { 0, 1 });
            Check.Equal(2L, session.Tokens, "it stays usable");
        }
        Check.Throws<ArgumentException>(() => Story.Greedy().SetBias(new int[2], new float[1]));
    }

    public static void TellsWhatItIs()
    {
        Check.Equal("1.0.0", Library.Version);
        Check.Equal(65536u, Library.AbiVersion);
        Check.True(Library.GetBuildInfo().Contains("api_hash"), "build info");
        Check.Equal("LlamaForCausalLM", Story.Model.Architecture);
        Check.True(Story.Model.Footprint > 1000000 && Story.Model.Layers == 6, "numbers of the model");
        Check.True(Model.Inspect(Story.Directory).Contains("awq"), "inspect");
        Check.True(Model.Estimate(Story.Directory, new Config { Context = 100 }).Contains("kv_bytes"), "estimate");
        Check.True(Story.Model.Describe().Contains("modules"), "describe");
        Check.True(Device.Count >= 0, "devices");
        if (Device.Count > 0) Check.True(new Device(0).TotalBytes > 0 && new Device(0).Name != "", "a GPU");
        else Check.Throws<NibbleException>(() => new Device(0).TotalBytes.ToString());
    }

    public static void TheLogCanBeReadAndWaitsAsLongAsItIsTold()
    {
        Log.SetLevel(LogLevel.Debug);
        try
        {
            Model.Load(Story.Directory).Dispose();
            LogLevel level;
            string line;
            while (Log.Next(out level, out line, 20))
            {
                Check.True(line.Length > 0 && level >= LogLevel.Error && level <= LogLevel.Debug, line);
            }
            Check.Equal("", line);
        }
        finally
        {
            Log.SetLevel(LogLevel.Off);
        }
    }

    public static void JobsMeasure()
    {
        using (Job job = Story.Model.StartBench(new Config { BenchPrompt = { 8 }, BenchDecode = 4, BenchRepeats = 1 }))
        {
            while (!job.Wait(10)) Check.True(job.Stage != null, "stage");
            Check.True(job.GetResult().Contains("decode_tokens_per_second"), job.GetResult());
            JobProgress progress = job.GetProgress();
            Check.True(progress.Done == progress.Total && job.PeakBytes >= 0, "progress " + progress.Done + " of " + progress.Total);
        }
        using (Job job = Story.Model.StartPerplexity(Story.Golden("long", "text"), new Config { PerplexityWindow = 16 }))
        {
            Check.True(job.WaitAsync().GetAwaiter().GetResult(), "wait");
            Check.True(job.GetResult().Contains("perplexity"), job.GetResult());
            Check.Fails(Status.State, () => job.TakeModel());
        }
    }

    public static void LoadsWithProgressAndCancel()
    {
        List<JobProgress> seen = new List<JobProgress>();
        using (Model model = Model.LoadAsync(Story.Directory, null, new Recorder(seen)).GetAwaiter().GetResult())
        {
            Check.Equal(Story.Model.Footprint, model.Footprint);
        }
        Check.True(seen.Count > 0 && seen[seen.Count - 1].Done == seen[seen.Count - 1].Total && seen[seen.Count - 1].Total > 0,
            "the last report");
        Task<Model> cancelled = Model.LoadAsync(Story.Directory, null, null, new CancellationToken(true));
        Check.Throws<OperationCanceledException>(() => cancelled.GetAwaiter().GetResult());
        Check.True(cancelled.IsCanceled, "the task says so");
        Check.Fails(Status.NotFound, () => Model.LoadAsync("/nowhere").GetAwaiter().GetResult());
    }

    private sealed class Recorder : IProgress<JobProgress>
    {
        private readonly List<JobProgress> seen;

        internal Recorder(List<JobProgress> seen) { this.seen = seen; }

        public void Report(JobProgress value) { seen.Add(value); }
    }

    public static void BatchesGiveWhatSessionsGiveAlone()
    {
        string[] prompts = { "Once upon a time", "The little dog", "One day a girl", "In a small town" };
        string[] alone = prompts.Select(prompt =>
        {
            using (Session session = Story.Greedy()) return session.Generate(prompt, 30);
        }).ToArray();
        using (Batch batch = new Batch(Story.Model))
        {
            Session[] sessions = prompts.Select(prompt => Story.Greedy()).ToArray();
            string[] texts = new string[prompts.Length];
            for (int i = 0; i < prompts.Length; ++i)
            {
                sessions[i].AppendText(prompts[i], TokenizeFlags.AddSpecial);
                sessions[i].Begin(30);
                batch.Add(sessions[i]);
            }
            HashSet<int> running = new HashSet<int>(Enumerable.Range(0, prompts.Length));
            while (running.Count > 0)
            {
                batch.Step();
                foreach (int i in running.ToArray())
                {
                    int id;
                    string piece;
                    if (sessions[i].Next(out id, out piece)) texts[i] += piece;
                    else running.Remove(i);
                }
            }
            Check.Same(alone, texts);
            batch.Remove(sessions[0]);
            Check.Fails(Status.NotFound, () => batch.Remove(sessions[0]));
        }
    }

    public static void SynthesizesAndMoves()
    {
        using (Model model = Model.Synthesize("{\"shape\": \"smollm2-135m\", \"format\": \"awq-g64\"}", new Config { Device = "cpu" }))
        {
            model.Move(Device.Cpu);
            using (Session session = new Session(model, new Config { Context = 32 }))
            {
                session.Append(new[] { 1, 2, 3 });
                Check.Equal(3L, session.Tokens);
                Check.Fails(Status.Busy, () => model.Move(Device.Cpu));
            }
        }
    }
}
