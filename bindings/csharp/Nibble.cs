// What is written by hand: errors, handles, texts, conversations, streams. Everything else is generated, in Nibble.gen.cs, and
// everything here calls only what is generated.
//
// Handles are never passed bare: a Lease holds one for the time of a call, so that Dispose on another thread, or the
// collector, releases it only when the call has come back.
using System;
using System.Collections.Generic;
using System.Collections.ObjectModel;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;
using System.Threading;
using System.Threading.Tasks;

namespace Nibble
{
    internal static class Errors
    {
        /// <summary>Throws where the status is a failure; takes the error object.</summary>
        internal static void Check(int status, IntPtr error)
        {
            if (status < 0) throw Make((Status)status, error);
        }

        /// <summary>Whether a buffer was too small: then the call is made again, and the error object is done with.</summary>
        internal static bool IsTooSmall(int status, IntPtr error)
        {
            if (status != (int)Status.Buffer) return false;
            ErrorObject.Release(error);
            return true;
        }

        private static Exception Make(Status status, IntPtr error)
        {
            NibbleException failure;
            try
            {
                failure = new NibbleException(status, ErrorObject.Message(error), ErrorObject.Detail(error));
            }
            finally
            {
                ErrorObject.Release(error);
            }
            if (status != Status.Cancelled) return failure;
            return new OperationCanceledException(failure.Message, failure);
        }
    }

    public static partial class Library
    {
        private static readonly object checking = new object();
        private static volatile bool fits;

        /// <summary>Checks once that the library is there and is the one that this assembly was generated for.</summary>
        internal static void Require()
        {
            if (fits) return;
            lock (checking)
            {
                if (fits) return;
#if NETCOREAPP3_0_OR_GREATER
                if (!resolving) NativeLibrary.SetDllImportResolver(typeof(Library).Assembly, Find);
                resolving = true;
#endif
                try
                {
                    CheckVersion();
                }
                catch (DllNotFoundException missing)
                {
                    throw new DllNotFoundException(
                        "libnibble.so was not found: put it beside Nibble.dll, install it (then ldconfig), or name its folder in " +
                        "LD_LIBRARY_PATH before the program starts. " + missing.Message, missing);
                }
                fits = true;
            }
        }

        private static unsafe void CheckVersion()
        {
            IntPtr error = IntPtr.Zero;
            bool serves = Native.nbl_abi_check(Native.AbiVersion, &error) == 0;
            ErrorObject.Release(error);
            string hash = LoadedHash();
            // A later minor version has another hash, rightly: it has only added to the API.
            if (serves && (Native.nbl_abi_version() != Native.AbiVersion || hash == Native.ApiHash)) return;
            throw new NibbleException(Status.Abi, string.Format(CultureInfo.InvariantCulture,
                "Nibble.dll was generated for nibble {0} (API {1}), the library that it found is nibble {2} (API {3}); " +
                "use the two of one release",
                Native.Version, Native.ApiHash, Text.From(Native.nbl_version()), hash));
        }

        private static unsafe string LoadedHash()
        {
            byte* info;
            UIntPtr length;
            if (Native.nbl_build_info(&info, &length, null) != 0) return "unknown";
            Match found = Regex.Match(Text.Take(info, length), "\"api_hash\"\\s*:\\s*\"(\\w+)\"");
            return found.Success ? found.Groups[1].Value : "unknown";
        }

#if NETCOREAPP3_0_OR_GREATER
        private static bool resolving;

        /// <summary>As usual; and where only the versioned name is installed, that.</summary>
        private static IntPtr Find(string name, System.Reflection.Assembly assembly, DllImportSearchPath? path)
        {
            IntPtr found;
            if (name != Native.LibraryName || NativeLibrary.TryLoad(name, assembly, path, out found)) return IntPtr.Zero;
            return NativeLibrary.TryLoad("libnibble.so.1", assembly, path, out found) ? found : IntPtr.Zero;
        }
#endif
    }

    /// <summary>What all handles are: released once, by Dispose or by the collector, when no call uses it any more.</summary>
    internal abstract class Handle : SafeHandle
    {
        internal readonly string Name;
        private long weight;

        protected Handle(IntPtr created, string name) : base(IntPtr.Zero, true)
        {
            Name = name;
            SetHandle(created);
        }

        public override bool IsInvalid { get { return handle == IntPtr.Zero; } }

        /// <summary>Tells the collector how much memory it would give back.</summary>
        internal void Weigh(long bytes)
        {
            if (bytes <= 0) return;
            GC.AddMemoryPressure(bytes);
            weight = bytes;
        }

        protected void Unweigh()
        {
            if (weight > 0) GC.RemoveMemoryPressure(weight);
            weight = 0;
        }
    }

    /// <summary>Holds a handle for the time of a call.</summary>
    internal struct Lease : IDisposable
    {
        internal readonly IntPtr Pointer;
        private readonly Handle handle;

        internal Lease(Handle handle)
        {
            Pointer = IntPtr.Zero;
            this.handle = null;
            if (handle == null) return;
            if (handle.IsClosed) throw new ObjectDisposedException(handle.Name);
            bool held = false;
            handle.DangerousAddRef(ref held);
            this.handle = handle;
            Pointer = handle.DangerousGetHandle();
        }

        public void Dispose()
        {
            if (handle != null) handle.DangerousRelease();
        }
    }

    internal static unsafe class Text
    {
        private static readonly UTF8Encoding strict = new UTF8Encoding(false, true);

        internal static byte[] Bytes(string text, string name)
        {
            if (text == null) throw new ArgumentNullException(name);
            try
            {
                return strict.GetBytes(text);
            }
            catch (EncoderFallbackException)
            {
                throw LoneSurrogate(text, name, name);
            }
        }

        /// <summary>The index of the first half of a pair that stands alone; -1 in a text that is UTF-16.</summary>
        internal static int FirstInvalid(string text)
        {
            for (int i = 0; i < text.Length; ++i)
            {
                if (!char.IsSurrogate(text[i])) continue;
                if (!char.IsHighSurrogate(text[i]) || i + 1 == text.Length || !char.IsLowSurrogate(text[i + 1])) return i;
                ++i;
            }
            return -1;
        }

        internal static ArgumentException LoneSurrogate(string text, string what, string name)
        {
            return new ArgumentException(string.Format(CultureInfo.InvariantCulture,
                "{0} is not UTF-16: half of a surrogate pair stands alone at index {1}", what, FirstInvalid(text)), name);
        }

        internal static string From(byte* text, UIntPtr length)
        {
            int size = checked((int)length);
            return size == 0 ? "" : Encoding.UTF8.GetString(text, size);
        }

        internal static string From(byte* text)
        {
            ulong length = 0;
            while (text[length] != 0) ++length;
            return From(text, (UIntPtr)length);
        }

        /// <summary>A text that the library allocated.</summary>
        internal static string Take(byte* text, UIntPtr length)
        {
            try
            {
                return From(text, length);
            }
            finally
            {
                Native.nbl_free((IntPtr)text);
            }
        }

        internal static byte[] Copy(byte* bytes, UIntPtr length)
        {
            byte[] copy = new byte[checked((int)length)];
            if (copy.Length > 0) Marshal.Copy((IntPtr)bytes, copy, 0, copy.Length);
            return copy;
        }
    }

    /// <summary>An option that is a list. The library only adds and empties: any other change empties it and adds all again.</summary>
    internal sealed class OptionList<T> : Collection<T>
    {
        private readonly Action<T> add;
        private readonly Action clear;

        internal OptionList(Action<T> add, Action clear)
        {
            this.add = add;
            this.clear = clear;
        }

        protected override void InsertItem(int index, T item)
        {
            if (index < Count)
            {
                List<T> items = new List<T>(this);
                items.Insert(index, item);
                Replace(items);
                return;
            }
            add(item);
            base.InsertItem(index, item);
        }

        protected override void SetItem(int index, T item)
        {
            List<T> items = new List<T>(this);
            items[index] = item;
            Replace(items);
        }

        protected override void RemoveItem(int index)
        {
            List<T> items = new List<T>(this);
            items.RemoveAt(index);
            Replace(items);
        }

        protected override void ClearItems()
        {
            if (Count > 0) clear();
            base.ClearItems();
        }

        private void Replace(List<T> items)
        {
            Clear();
            foreach (T item in items) Add(item);
        }
    }

    internal static class OptionValue
    {
        internal static string Decimal(long value)
        {
            return value.ToString(CultureInfo.InvariantCulture);
        }

        internal static Exception Kept(string name)
        {
            return new InvalidOperationException(name + " was set already, and a Config does not forget: make another one");
        }
    }

    /// <summary>A message of a conversation.</summary>
    public sealed class ChatMessage
    {
        private Dictionary<string, string> fields;

        /// <summary>A message of a role: system, user, assistant, tool, or what else the chat template knows.</summary>
        public ChatMessage(string role, string content)
        {
            if (role == null) throw new ArgumentNullException("role");
            Role = role;
            Content = content;
        }

        /// <summary>Whose message it is.</summary>
        public string Role { get; private set; }

        /// <summary>Its text; null for a message without, one that only calls tools.</summary>
        public string Content { get; private set; }

        /// <summary>Further keys, each with its value as JSON: <c>{ "tool_calls", "[...]" }</c>.</summary>
        public IDictionary<string, string> Fields { get { return fields ?? (fields = new Dictionary<string, string>()); } }

        /// <summary>How the assistant is to behave.</summary>
        public static ChatMessage System(string content) { return new ChatMessage("system", content); }

        /// <summary>What the user says.</summary>
        public static ChatMessage User(string content) { return new ChatMessage("user", content); }

        /// <summary>What the model answered.</summary>
        public static ChatMessage Assistant(string content) { return new ChatMessage("assistant", content); }

        /// <summary>What a tool gave.</summary>
        public static ChatMessage Tool(string content) { return new ChatMessage("tool", content); }

        internal void Write(StringBuilder json, string name)
        {
            json.Append("{\"role\":");
            Json.String(json, Role, name + ".Role");
            json.Append(",\"content\":");
            if (Content == null) json.Append("null");
            else Json.String(json, Content, name + ".Content");
            if (fields != null) Json.Fields(json, fields, name + ".Fields");
            json.Append('}');
        }
    }

    /// <summary>A conversation with what its rendering needs: what Session.AppendChat and Model.RenderChat take.</summary>
    public sealed class ChatRequest
    {
        private readonly List<ChatMessage> messages = new List<ChatMessage>();
        private readonly Dictionary<string, string> fields = new Dictionary<string, string>();

        /// <summary>A conversation of these messages; more can be added.</summary>
        public ChatRequest(params ChatMessage[] messages)
        {
            if (messages == null) throw new ArgumentNullException("messages");
            this.messages.AddRange(messages);
        }

        /// <summary>The messages, oldest first.</summary>
        public IList<ChatMessage> Messages { get { return messages; } }

        /// <summary>The tools that the model may call: a JSON array, as transformers' templates take it.</summary>
        public string Tools { get; set; }

        /// <summary>Whether the prompt ends where the assistant begins to speak. Null: yes, unless ContinueFinalMessage.</summary>
        public bool? AddGenerationPrompt { get; set; }

        /// <summary>Whether the model goes on with the last message instead of answering it.</summary>
        public bool ContinueFinalMessage { get; set; }

        /// <summary>Whether control tokens that users and tools wrote into their messages are ordinary text.</summary>
        public bool SpellSpecial { get; set; }

        /// <summary>The name of the template, where the checkpoint has several.</summary>
        public string Template { get; set; }

        /// <summary>Further variables of the template, each with its value as JSON: <c>{ "enable_thinking", "false" }</c>.</summary>
        public IDictionary<string, string> Fields { get { return fields; } }

        /// <summary>The request as JSON. A text that is not UTF-16 is an ArgumentException that names the index.</summary>
        public string ToJson()
        {
            StringBuilder json = new StringBuilder("{\"messages\":[");
            for (int i = 0; i < messages.Count; ++i)
            {
                if (i > 0) json.Append(',');
                string name = "Messages[" + i.ToString(CultureInfo.InvariantCulture) + "]";
                if (messages[i] == null) throw new ArgumentException(name + " is null", "Messages");
                messages[i].Write(json, name);
            }
            json.Append(']');
            if (AddGenerationPrompt == true) json.Append(",\"add_generation_prompt\":true");
            if (AddGenerationPrompt == false) json.Append(",\"add_generation_prompt\":false");
            if (ContinueFinalMessage) json.Append(",\"continue_final_message\":true");
            if (SpellSpecial) json.Append(",\"spell_special\":true");
            if (Tools != null) json.Append(",\"tools\":").Append(Tools);
            if (Template != null)
            {
                json.Append(",\"template\":");
                Json.String(json, Template, "Template");
            }
            Json.Fields(json, fields, "Fields");
            return json.Append('}').ToString();
        }
    }

    internal static class Json
    {
        internal static void String(StringBuilder json, string text, string name)
        {
            if (Text.FirstInvalid(text) >= 0) throw Text.LoneSurrogate(text, name, name);
            json.Append('"');
            foreach (char c in text)
            {
                if (c == '"' || c == '\\') json.Append('\\').Append(c);
                else if (c < ' ') json.Append("\\u").Append(((int)c).ToString("x4", CultureInfo.InvariantCulture));
                else json.Append(c);
            }
            json.Append('"');
        }

        internal static void Fields(StringBuilder json, Dictionary<string, string> fields, string name)
        {
            foreach (KeyValuePair<string, string> field in fields)
            {
                json.Append(',');
                String(json, field.Key, name);
                json.Append(':').Append(field.Value ?? "null");
            }
        }
    }

    /// <summary>Session.Stream and Session.StreamAsync.</summary>
    internal static class Pieces
    {
        internal static IEnumerable<string> Stream(Session session, long maxTokens, CancellationToken cancellationToken)
        {
            session.Begin(maxTokens);  // from here on a cancel stays in force until the generation has ended
            using (cancellationToken.Register(session.Cancel))
            {
                string text;
                while (Next(session, out text, cancellationToken)) yield return text;
            }
        }

        /// <summary>Passes over tokens that complete no character. False at the end.</summary>
        private static bool Next(Session session, out string text, CancellationToken cancellationToken)
        {
            try
            {
                int id;
                do
                {
                    if (!session.Next(out id, out text)) return false;
                } while (text.Length == 0);
                return true;
            }
            catch (OperationCanceledException cancelled) when (cancellationToken.IsCancellationRequested)
            {
                throw new OperationCanceledException(cancelled.Message, cancelled, cancellationToken);
            }
        }

#if NETCOREAPP3_0_OR_GREATER || NETSTANDARD2_1_OR_GREATER
        internal static IAsyncEnumerable<string> StreamAsync(Session session, long maxTokens, CancellationToken cancellationToken)
        {
            return new AsyncStream(session, maxTokens, cancellationToken);
        }

        /// <summary>Written out because C# 7 has no asynchronous iterators.</summary>
        private sealed class AsyncStream : IAsyncEnumerable<string>
        {
            private readonly Session session;
            private readonly long maxTokens;
            private readonly CancellationToken given;

            internal AsyncStream(Session session, long maxTokens, CancellationToken given)
            {
                this.session = session;
                this.maxTokens = maxTokens;
                this.given = given;
            }

            public IAsyncEnumerator<string> GetAsyncEnumerator(CancellationToken cancellationToken)
            {
                CancellationTokenSource both = CancellationTokenSource.CreateLinkedTokenSource(given, cancellationToken);
                return new AsyncPieces(Stream(session, maxTokens, both.Token).GetEnumerator(), both);
            }
        }

        private sealed class AsyncPieces : IAsyncEnumerator<string>
        {
            private readonly IEnumerator<string> pieces;
            private readonly CancellationTokenSource source;

            internal AsyncPieces(IEnumerator<string> pieces, CancellationTokenSource source)
            {
                this.pieces = pieces;
                this.source = source;
            }

            public string Current { get { return pieces.Current; } }

            public ValueTask<bool> MoveNextAsync()
            {
                return new ValueTask<bool>(Task.Run(() => pieces.MoveNext()));
            }

            public ValueTask DisposeAsync()
            {
                pieces.Dispose();
                source.Dispose();
                return default(ValueTask);
            }
        }
#endif
    }

    /// <summary>A long call on a thread of its own.</summary>
    internal static class Work
    {
        private const int ReportMilliseconds = 50;

        internal static Task Run(Action work, Action cancel, CancellationToken token)
        {
            return Run(() =>
            {
                work();
                return true;
            }, cancel, token);
        }

        internal static Task<T> Run<T>(Func<T> work, Action cancel, CancellationToken token)
        {
            return Start(() =>
            {
                token.ThrowIfCancellationRequested();
                return work();
            }, cancel, token);
        }

        private static Task<T> Start<T>(Func<T> work, Action cancel, CancellationToken token)
        {
            TaskCompletionSource<T> result = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
            // Not on the pool: a few loads or long prompts would take all of its threads.
            Task.Factory.StartNew(() => Finish(result, work, cancel, token), CancellationToken.None,
                                  TaskCreationOptions.LongRunning | TaskCreationOptions.DenyChildAttach, TaskScheduler.Default);
            return result.Task;
        }

        /// <summary>Waits for a job, tells how far it is, and takes what it made.</summary>
        internal static Task<T> Run<T>(Job job, Func<T> take, IProgress<JobProgress> progress, CancellationToken token)
        {
            return Start(() =>
            {
                using (job)  // also where the token was cancelled before it began
                {
                    token.ThrowIfCancellationRequested();
                    while (!job.Wait(progress == null ? -1 : ReportMilliseconds)) progress.Report(job.GetProgress());
                    if (progress != null) progress.Report(job.GetProgress());
                    return take();
                }
            }, job.Cancel, token);
        }

        private static void Finish<T>(TaskCompletionSource<T> result, Func<T> work, Action cancel, CancellationToken token)
        {
            try
            {
                T value;
                using (new Canceller(cancel, token))
                {
                    value = work();
                }
                result.SetResult(value);
            }
            catch (OperationCanceledException)
            {
                result.TrySetCanceled(token);
            }
            catch (Exception failure)
            {
                result.SetException(failure);
            }
        }
    }

    /// <summary>
    /// Cancels a call when a token says so, again and again until it has come back: the library forgets a cancel that came just
    /// before the call began. Never after it: the next call is somebody else's.
    /// </summary>
    internal sealed class Canceller : IDisposable
    {
        private const int RepeatMilliseconds = 5;
        private readonly Action cancel;
        private readonly CancellationTokenRegistration registration;
        private Timer timer;
        private bool over;

        internal Canceller(Action cancel, CancellationToken token)
        {
            this.cancel = cancel;
            if (cancel != null && token.CanBeCanceled) registration = token.Register(Begin);
        }

        private void Begin()
        {
            lock (this)
            {
                if (over) return;
                cancel();
                timer = new Timer(Repeat, null, RepeatMilliseconds, RepeatMilliseconds);
            }
        }

        private void Repeat(object state)
        {
            lock (this)
            {
                if (!over) cancel();
            }
        }

        public void Dispose()
        {
            lock (this)
            {
                over = true;
                if (timer != null) timer.Dispose();
            }
            registration.Dispose();  // outside the lock: it waits for Begin
        }
    }
}
