package nibble

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

const testModelDir = "../../samples/models/story-6m-awq"

var loaded struct {
	once  sync.Once
	model *Model
	err   error
}

// testModel is the embedded model on the CPU, loaded once.
func testModel(t testing.TB) *Model {
	t.Helper()
	loaded.once.Do(func() {
		config := NewConfig().SetDevice("cpu").SetSpin(false)
		defer config.Close()
		loaded.model, loaded.err = LoadModel(testModelDir, config)
	})
	if loaded.err != nil {
		t.Fatal(loaded.err)
	}
	return loaded.model
}

func testSession(t testing.TB) *Session {
	t.Helper()
	session, err := testModel(t).NewSession(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

// golden is what other tools computed from the model.
type golden struct {
	Name     string
	Text     string
	Messages []struct{ Role, Content string }
	IDs      []Token
	Greedy   string `json:"greedy64_text"`
}

func goldenPrompt(t testing.TB, name string) golden {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testModelDir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Prompts []golden }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	for _, prompt := range file.Prompts {
		if prompt.Name == name {
			return prompt
		}
	}
	t.Fatalf("golden.json has no prompt %q", name)
	return golden{}
}

func greedy(t testing.TB, session *Session) {
	t.Helper()
	if err := session.SetTemperature(0); err != nil {
		t.Fatal(err)
	}
	if err := session.SetRepetitionPenalty(1); err != nil {
		t.Fatal(err)
	}
}

func collect(session *Session) (string, error) {
	var text strings.Builder
	for session.Next() {
		text.WriteString(session.Text())
	}
	return text.String(), session.Err()
}

func TestStreamsWhatOtherToolsWrite(t *testing.T) {
	prompt := goldenPrompt(t, "plain")
	session := testSession(t)
	greedy(t, session)
	if err := session.StartText(nil, prompt.Text, 64); err != nil { //nolint:staticcheck // nil is allowed
		t.Fatal(err)
	}
	text, err := collect(session)
	if err != nil || !strings.HasPrefix(prompt.Greedy, text) || len(text) < 60 {
		t.Fatalf("%q, %v; expected %q", text, err, prompt.Greedy)
	}
	reason, err := session.StopReason()
	if err != nil || (reason != StopMaxTokens && reason != StopEOS) {
		t.Errorf("stopped by %v, %v", reason, err)
	}
	count, err := session.GeneratedTokens()
	if err != nil || count == 0 || count > 64 {
		t.Errorf("%d tokens, %v", count, err)
	}
	again, err := testSession(t).Generate(prompt.Text, 5)
	if err != nil || again == "" {
		t.Errorf("%q, %v", again, err)
	}
}

func TestAnswersAChat(t *testing.T) {
	prompt := goldenPrompt(t, "chat")
	chat := Chat{}
	for _, message := range prompt.Messages {
		chat.Messages = append(chat.Messages, Message{Role: message.Role, Content: message.Content})
	}
	rendered, err := testModel(t).Render(chat)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := testModel(t).Tokenize(rendered, 0)
	if err != nil || !reflect.DeepEqual(ids, prompt.IDs) {
		t.Errorf("%v, %v; expected %v", ids, err, prompt.IDs)
	}
	session := testSession(t)
	greedy(t, session)
	if err := session.StartChat(context.Background(), chat, 40); err != nil {
		t.Fatal(err)
	}
	text, err := collect(session)
	if err != nil || text == "" || !strings.HasPrefix(prompt.Greedy, text) {
		t.Errorf("%q, %v; expected %q", text, err, prompt.Greedy)
	}
}

func TestAChatIsTheJSONThatTemplatesKnow(t *testing.T) {
	text, err := Chat{
		Messages: []Message{
			{Role: "user", Content: "how warm is it?"},
			{Role: "assistant", ToolCalls: []ToolCall{{ID: "1", Name: "weather", Arguments: json.RawMessage(`{"city":"Rome"}`)}}},
			{Role: "tool", Content: "30", ToolCallID: "1", Name: "weather"},
		},
		Tools:              []Tool{{Name: "weather", Description: "tells it", Parameters: json.RawMessage(`{"type":"object"}`)}},
		NoGenerationPrompt: true,
		SpellSpecial:       true,
		Variables:          map[string]interface{}{"enable_thinking": false},
	}.json()
	if err != nil {
		t.Fatal(err)
	}
	const expected = `{"add_generation_prompt":false,"enable_thinking":false,"messages":[{"content":"how warm is it?","role":"user"},` +
		`{"content":"","role":"assistant","tool_calls":[{"function":{"arguments":{"city":"Rome"},"name":"weather"},"id":"1","type":"function"}]},` +
		`{"content":"30","name":"weather","role":"tool","tool_call_id":"1"}],"spell_special":true,` +
		`"tools":[{"function":{"description":"tells it","name":"weather","parameters":{"type":"object"}},"type":"function"}]}`
	if text != expected {
		t.Errorf("%s\nexpected\n%s", text, expected)
	}
	if _, err := (Chat{Messages: []Message{{Role: "user", Content: "\xff"}}}).json(); !errors.Is(err, ErrArgument) {
		t.Errorf("text that is not UTF-8: %v", err)
	}
	if _, err := testModel(t).Render(Chat{Template: "tool_use"}); !errors.Is(err, ErrTemplate) && !errors.Is(err, ErrNotFound) {
		t.Errorf("a template that the model has not: %v", err)
	}
	config := NewConfig().SetChatTemplate("{{ messages[0].content }}{{ raise_exception('no more') }}")
	defer config.Close()
	model, err := LoadModel(testModelDir, config)
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	if _, err := model.Render(Chat{Messages: []Message{{Role: "user"}}}); !errors.Is(err, ErrTemplate) || !strings.Contains(err.Error(), "no more") {
		t.Errorf("a template that fails: %v", err)
	}
}

func TestOptionsAreKeptAndRefused(t *testing.T) {
	config := NewConfig().SetContext(128).SetTemperature(0.5).SetKVDtype(KVDtypeF32).AddStop("a", "b").AddStopIDs(3, 5).SetIgnoreEOS(true)
	defer config.Close()
	if config.Err() != nil {
		t.Fatal(config.Err())
	}
	text, err := config.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var options map[string]interface{}
	if err := json.Unmarshal([]byte(text), &options); err != nil {
		t.Fatal(err)
	}
	expected := map[string]interface{}{"context": 128.0, "temperature": 0.5, "kv_dtype": "f32", "stop": []interface{}{"a", "b"},
		"stop_ids": []interface{}{"3", "5"}, "ignore_eos": 1.0}
	if !reflect.DeepEqual(options, expected) {
		t.Errorf("%s", text)
	}
	session, err := testModel(t).NewSession(config)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if context, err := session.Context(); err != nil || context != 128 {
		t.Errorf("%d, %v", context, err)
	}
	if err := session.SetTopP(2); !errors.Is(err, ErrOptionValue) {
		t.Errorf("%v", err)
	}

	// The first refusal is told by whatever takes the Config, so that it cannot be lost.
	wrong := NewConfig().SetKVDtype("f99").SetContext(64)
	defer wrong.Close()
	for _, err := range []error{wrong.Err(), second(testModel(t).NewSession(wrong)), second(EstimateModel(testModelDir, wrong))} {
		var failure *Error
		if !errors.As(err, &failure) || failure.Code != ErrOptionValue || !strings.Contains(failure.Message, "f99") {
			t.Errorf("%v", err)
		}
	}
	if err := NewConfig().SetInt64(999999, 1); !errors.Is(err, ErrUnknownOption) {
		t.Errorf("%v", err)
	}
	if err := NewConfig().MergeJSON(`{"temperature": "warm"}`); !errors.Is(err, ErrOptionValue) {
		t.Errorf("%v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestErrorsHaveCodeMessageAndDetail(t *testing.T) {
	_, err := LoadModel("/there/is/no/such/directory", nil)
	var failure *Error
	if !errors.As(err, &failure) {
		t.Fatalf("%v", err)
	}
	if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrCancelled) || !strings.Contains(err.Error(), "/there/is/no/such/directory") {
		t.Errorf("%v %+v", err, failure)
	}
	var detail map[string]interface{}
	if err := json.Unmarshal([]byte(failure.Detail), &detail); err != nil {
		t.Errorf("%q: %v", failure.Detail, err)
	}
	if failure.Code.String() != "NBL_E_NOT_FOUND" || ErrNotFound.Error() == "" || Code(77).String() != "NBL_UNKNOWN" {
		t.Errorf("%v", failure.Code)
	}
}

func TestAContextCancels(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	session := testSession(t)
	if err := session.SetIgnoreEOS(true); err != nil {
		t.Fatal(err)
	}
	if err := session.StartText(ctx, "Once upon a time", -1); err != nil {
		t.Fatal(err)
	}
	if !session.Next() {
		t.Fatal(session.Err())
	}
	cancel()
	for session.Next() {
	}
	if err := session.Err(); !errors.Is(err, ErrCancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := session.StartText(ctx, "again", 1); !errors.Is(err, ErrCancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	// The session goes on without a context.
	if text, err := session.Generate("Once upon a time", 4); err != nil || text == "" {
		t.Errorf("%q, %v", text, err)
	}
	expired, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	<-expired.Done()
	if err := session.Start(expired, 5); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestAContextCancelsAPrompt(t *testing.T) {
	config := NewConfig().SetDevice("ref")
	defer config.Close()
	model, err := LoadModel(testModelDir, config)
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	session, err := model.NewSession(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	// The reference in double takes many seconds for this prompt.
	err = session.StartText(ctx, strings.Repeat("the dog and the cat ", 90), 1)
	if !errors.Is(err, ErrCancelled) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestModelsTellWhatTheyAre(t *testing.T) {
	model := testModel(t)
	if layers, err := model.Layers(); err != nil || layers != 6 {
		t.Errorf("%d layers, %v", layers, err)
	}
	if name, err := model.Architecture(); err != nil || name != "LlamaForCausalLM" {
		t.Errorf("%q, %v", name, err)
	}
	if id, err := model.EOSToken(); err != nil || id != 0 {
		t.Errorf("%d, %v", id, err)
	}
	if took, err := model.LoadTime(); err != nil || took <= 0 {
		t.Errorf("%v, %v", took, err)
	}
	for name, read := range map[string]func() (string, error){
		"inspect":  func() (string, error) { return InspectModel(testModelDir) },
		"estimate": func() (string, error) { return EstimateModel(testModelDir, nil) },
		"describe": model.Describe,
		"session":  testSession(t).Describe,
		"build":    BuildInfo,
	} {
		text, err := read()
		var value map[string]interface{}
		if err != nil || json.Unmarshal([]byte(text), &value) != nil || len(value) < 3 {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
	if _, err := model.TextOf(PropLayers); !errors.Is(err, ErrArgument) {
		t.Errorf("%v", err)
	}
}

func TestTokensComeAndGo(t *testing.T) {
	prompt := goldenPrompt(t, "plain")
	model := testModel(t)
	ids, err := model.Tokenize(prompt.Text, TokenizeAddSpecial)
	if err != nil || !reflect.DeepEqual(ids, prompt.IDs) {
		t.Errorf("%v, %v; expected %v", ids, err, prompt.IDs)
	}
	text, err := model.Detokenize(ids, DetokenizeSkipSpecial)
	if err != nil || text != prompt.Text {
		t.Errorf("%q, %v", text, err)
	}
	ids, begin, end, err := model.TokenizeSpans(prompt.Text, 0)
	if err != nil || len(begin) != len(ids) || len(end) != len(ids) || end[len(ids)-1] != uint64(len(prompt.Text)) {
		t.Errorf("%v %v %v, %v", ids, begin, end, err)
	}
	bytes, err := model.TokenBytes(ids[0])
	if err != nil || string(bytes) != prompt.Text[begin[0]:end[0]] {
		t.Errorf("%q, %v", bytes, err)
	}
	session := testSession(t)
	if err := session.Append(ids); err != nil {
		t.Fatal(err)
	}
	if got, err := session.Tokens(1); err != nil || !reflect.DeepEqual(got, ids[1:]) {
		t.Errorf("%v, %v", got, err)
	}
	if length, err := session.Length(); err != nil || int(length) != len(ids) {
		t.Errorf("%d, %v", length, err)
	}
	if err := session.Truncate(1); err != nil {
		t.Error(err)
	}
	if got, err := session.Tokens(0); err != nil || !reflect.DeepEqual(got, ids[:1]) {
		t.Errorf("%v, %v", got, err)
	}
	if err := session.Append([]Token{-1}); !errors.Is(err, ErrArgument) {
		t.Errorf("%v", err)
	}
}

func TestLogitsTopAndScoreAgree(t *testing.T) {
	session := testSession(t)
	if err := session.AppendText("Once upon a", TokenizeAddSpecial); err != nil {
		t.Fatal(err)
	}
	logits, err := session.Logits()
	if err != nil {
		t.Fatal(err)
	}
	vocabulary, err := testModel(t).Vocabulary()
	if err != nil || int(vocabulary) != len(logits) {
		t.Fatalf("%d logits, %d tokens, %v", len(logits), vocabulary, err)
	}
	ids, logprobs, err := session.Top(5)
	if err != nil || len(ids) != 5 || len(logprobs) != 5 {
		t.Fatalf("%v %v, %v", ids, logprobs, err)
	}
	sum := 0.0
	best := 0
	for id, logit := range logits {
		sum += math.Exp(float64(logit))
		if logit > logits[best] {
			best = id
		}
	}
	if int(ids[0]) != best {
		t.Errorf("the best is %d, not %d", best, ids[0])
	}
	for i, id := range ids {
		if expected := float64(logits[id]) - math.Log(sum); math.Abs(expected-float64(logprobs[i])) > 1e-4 {
			t.Errorf("token %d: %v, expected %v", id, logprobs[i], expected)
		}
	}
	scores, err := session.Score(ids[:1])
	if err != nil || len(scores) != 1 || math.Abs(float64(scores[0]-logprobs[0])) > 1e-4 {
		t.Errorf("%v, %v; expected %v", scores, err, logprobs[0])
	}
	if _, _, err := session.Top(-3); err != nil {
		t.Error(err)
	}

	// A bias decides; its absence does too.
	greedy(t, session)
	if err := session.SetBias([]Token{77}, []float32{1e6}); err != nil {
		t.Fatal(err)
	}
	if err := session.Begin(1); err != nil {
		t.Fatal(err)
	}
	if id, _, ok, err := session.NextToken(); id != 77 || !ok || err != nil {
		t.Errorf("%d %v %v", id, ok, err)
	}
	if err := session.SetBias([]Token{77}, nil); !errors.Is(err, ErrArgument) {
		t.Errorf("lengths that differ: %v", err)
	}
	if err := session.SetBias(nil, nil); err != nil {
		t.Error(err)
	}
}

func TestABatchStepsSessionsTogether(t *testing.T) {
	model := testModel(t)
	batch, err := model.NewBatch(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer batch.Close()
	const count = 4
	sessions, texts := make([]*Session, count), make([]string, count)
	for i := range sessions {
		sessions[i] = testSession(t)
		if err := sessions[i].SetSeed(int64(i)); err != nil {
			t.Fatal(err)
		}
		if err := sessions[i].StartText(nil, "Once upon a time", 30); err != nil { //nolint:staticcheck // nil is allowed
			t.Fatal(err)
		}
		if err := batch.Add(sessions[i]); err != nil {
			t.Fatal(err)
		}
	}
	for steps := 0; ; steps++ {
		active, err := batch.Step()
		if err != nil || steps > 40 {
			t.Fatalf("after %d steps %d go on: %v", steps, active, err)
		}
		for i, session := range sessions {
			if session.Next() {
				texts[i] += session.Text()
			} else if session.Err() != nil {
				t.Fatal(session.Err())
			}
		}
		if active == 0 {
			break
		}
	}
	for i, text := range texts {
		alone := testSession(t)
		if err := alone.SetSeed(int64(i)); err != nil {
			t.Fatal(err)
		}
		if expected, err := alone.Generate("Once upon a time", 30); err != nil || expected != text {
			t.Errorf("%q, alone %q, %v", text, expected, err)
		}
	}
	if err := batch.Remove(sessions[0]); err != nil {
		t.Error(err)
	}
	if err := batch.Remove(sessions[0]); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestJobsHaveProgressAndResults(t *testing.T) {
	config := NewConfig().SetDevice("cpu").SetSpin(false).SetPerplexityWindow(32).SetPerplexityMaxWindows(2).AddBenchPrompt(8).SetBenchDecode(2).SetBenchRepeats(1)
	defer config.Close()
	load, err := StartLoadModel(testModelDir, config)
	if err != nil {
		t.Fatal(err)
	}
	defer load.Close()
	if err := load.Await(context.Background()); err != nil {
		t.Fatal(err)
	}
	done, total, err := load.Progress()
	if err != nil || done != total || total == 0 {
		t.Errorf("%d of %d, %v", done, total, err)
	}
	if peak, err := load.Memory(); err != nil || peak == 0 {
		t.Errorf("%d, %v", peak, err)
	}
	model, err := load.TakeModel()
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	if _, err := load.TakeModel(); !errors.Is(err, ErrState) {
		t.Errorf("a model twice: %v", err)
	}

	perplexity, err := model.StartPerplexity(config, strings.Repeat("Once upon a time there was a dog. ", 20))
	if err != nil {
		t.Fatal(err)
	}
	defer perplexity.Close()
	if ok, err := perplexity.Wait(time.Minute); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	text, err := perplexity.Result()
	var result struct {
		Perplexity float64
		Windows    int
	}
	if err != nil || json.Unmarshal([]byte(text), &result) != nil || result.Windows != 2 || !(result.Perplexity > 1) {
		t.Errorf("%s, %v", text, err)
	}

	bench, err := model.StartBench(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := bench.Await(context.Background()); err != nil {
		t.Error(err)
	}
	if text, err := bench.Result(); err != nil || !strings.Contains(text, "decode_tokens_per_second") {
		t.Errorf("%s, %v", text, err)
	}
	bench.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	long := NewConfig().SetBenchDecode(100000).SetBenchRepeats(1000)
	defer long.Close()
	endless, err := model.StartBench(long)
	if err != nil {
		t.Fatal(err)
	}
	defer endless.Close()
	if ok, err := endless.Wait(time.Millisecond); ok || err != nil {
		t.Errorf("ended already: %v, %v", ok, err)
	}
	if err := endless.Await(ctx); !errors.Is(err, ErrCancelled) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestTheLogIsRead(t *testing.T) {
	if _, _, ok, err := NextLogLine(0); ok || err != nil {
		t.Errorf("a line without a level: %v, %v", ok, err)
	}
	SetLogLevel(LogDebug)
	defer SetLogLevel(LogOff)
	model, err := LoadModel(testModelDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	model.Close()
	level, line, ok, err := NextLogLine(time.Second)
	if err != nil || !ok || line == "" || level < LogError || level > LogDebug || level.String() == "" {
		t.Errorf("%v %q %v %v", level, line, ok, err)
	}
	for ok && err == nil {
		_, _, ok, err = NextLogLine(0)
	}
}

// A package one version older and newer than the library, and one of the same version that is another.
func TestAnotherVersionIsRefused(t *testing.T) {
	if err := checkVersion(versionMajor, versionMinor, apiHash); err != nil {
		t.Error(err)
	}
	for _, version := range [][2]uint32{{versionMajor, versionMinor + 1}, {versionMajor + 1, 0}, {versionMajor - 1, versionMinor}} {
		err := checkVersion(version[0], version[1], apiHash)
		mine := strings.Join([]string{itoa(version[0]), itoa(version[1])}, ".")
		if !errors.Is(err, ErrABI) || !strings.Contains(err.Error(), mine) || !strings.Contains(err.Error(), Version()) {
			t.Errorf("%v: %v", version, err)
		}
	}
	err := checkVersion(versionMajor, versionMinor, "0123456789abcdef")
	if !errors.Is(err, ErrABI) || !strings.Contains(err.Error(), "0123456789abcdef") || !strings.Contains(err.Error(), apiHash) {
		t.Errorf("%v", err)
	}
}

func itoa(number uint32) string {
	text, _ := json.Marshal(number)
	return string(text)
}
