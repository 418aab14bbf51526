package nibble

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// random is another one each run; a failure prints the seed, and NIBBLE_SEED gives it again.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := time.Now().UnixNano()
	if text := os.Getenv("NIBBLE_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("NIBBLE_SEED=%d", seed)
		}
	})
	return rand.New(rand.NewSource(seed))
}

// endless makes a session that writes until its context is full.
func endless(t testing.TB, model *Model) *Session {
	t.Helper()
	session, err := model.NewSession(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.SetIgnoreEOS(true); err != nil {
		t.Fatal(err)
	}
	return session
}

func TestUseAfterClose(t *testing.T) {
	model, err := LoadModel(testModelDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	session := endless(t, model)
	batch, err := model.NewBatch(nil)
	if err != nil {
		t.Fatal(err)
	}
	job, err := model.StartBench(nil)
	if err != nil {
		t.Fatal(err)
	}
	config := NewConfig()
	for i := 0; i < 2; i++ { // closing twice does nothing
		for _, closer := range []interface{ Close() error }{model, session, batch, job, config} {
			if err := closer.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	session.Cancel()
	job.Cancel()
	for name, err := range map[string]error{
		"model":          second(model.Describe()),
		"session":        session.AppendText("x", 0),
		"batch":          second(batch.Step()),
		"job":            second(job.Result()),
		"config":         config.SetInt64(OptTopK, 1),
		"closed config":  second(testModel(t).NewSession(config)),
		"closed session": batchAdd(t, session),
	} {
		if !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if session.Next() || !errors.Is(session.Err(), ErrState) {
		t.Errorf("%v", session.Err())
	}
	if (&Session{}).Close() != nil || (&Session{}).Next() {
		t.Error("a session that nobody made")
	}
}

func batchAdd(t *testing.T, session *Session) error {
	batch, err := testModel(t).NewBatch(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer batch.Close()
	return batch.Add(session)
}

func TestCloseWhileAnotherGoroutineStreams(t *testing.T) {
	random := random(t)
	for i := 0; i < 100; i++ {
		session := endless(t, testModel(t))
		ended := make(chan error)
		go func() {
			err := session.StartText(context.Background(), "Once upon a time", -1)
			if err == nil {
				_, err = collect(session)
			}
			ended <- err
		}()
		time.Sleep(time.Duration(random.Intn(5000)) * time.Microsecond)
		session.Close()
		if err := <-ended; err != nil && !errors.Is(err, ErrCancelled) && !errors.Is(err, ErrState) {
			t.Fatal(err)
		}
	}
}

func TestCancelAtRandomTimes(t *testing.T) {
	random := random(t)
	session := endless(t, testModel(t))
	defer session.Close()
	greedy(t, session)
	expected, err := session.Generate("Once upon a time", 10)
	if err != nil {
		t.Fatal(err)
	}
	cancelled := 0
	for i := 0; i < 200; i++ {
		if err := session.Truncate(0); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(random.Intn(4000))*time.Microsecond, session.Cancel)
		_, err := session.Generate("Once upon a time", 60)
		timer.Stop()
		if errors.Is(err, ErrCancelled) {
			cancelled++
		} else if err != nil {
			t.Fatal(err)
		}
		if err := session.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if text, err := session.Generate("Once upon a time", 10); err != nil || text != expected {
			// A timer that fires late cancels this one: that is what it was asked.
			if !errors.Is(err, ErrCancelled) {
				t.Fatalf("%q, %v; expected %q", text, err, expected)
			}
		}
	}
	if cancelled == 0 {
		t.Error("no call was cancelled")
	}
}

func TestContextsThatEndAtRandomTimes(t *testing.T) {
	random := random(t)
	session := endless(t, testModel(t))
	defer session.Close()
	for i := 0; i < 200; i++ {
		if err := session.Truncate(0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.Intn(4000))*time.Microsecond)
		err := session.StartText(ctx, "Once upon a time", -1)
		if err == nil {
			_, err = collect(session)
		}
		cancel()
		// It would go on to the end of the context window: only the end of ctx can have come first, or the window is full.
		if err != nil && !(errors.Is(err, ErrCancelled) && errors.Is(err, context.DeadlineExceeded)) {
			t.Fatal(err)
		}
		// The watch over ctx has ended with the answer: nothing cancels what comes next.
		if err := session.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if _, err := session.Generate("Once", 2); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASecondCallIsBusy(t *testing.T) {
	session := endless(t, testModel(t))
	defer session.Close()
	var busy int64
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for n := 0; n < 50; n++ {
				err := session.AppendText("dog", 0)
				if errors.Is(err, ErrBusy) {
					atomic.AddInt64(&busy, 1)
				} else if err != nil && !errors.Is(err, ErrContextFull) {
					t.Error(err)
				}
			}
		}()
	}
	group.Wait()
	if busy == 0 {
		t.Log("no two calls met")
	}
}

func TestGarbageCollectionWhileStreaming(t *testing.T) {
	model := testModel(t)
	reference := testSession(t)
	expected, err := reference.Generate("Once upon a time", 60)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var collector sync.WaitGroup
	collector.Add(1)
	go func() {
		defer collector.Done()
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
				// Handles that nobody closes: their finalizers run beside everything else.
				if session, err := model.NewSession(nil); err != nil {
					t.Error(err)
				} else if err := session.AppendText("x", 0); err != nil {
					t.Error(err)
				}
				NewConfig().SetTopK(3)
			}
		}
	}()
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			session, err := model.NewSession(nil)
			if err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if err := session.StartText(ctx, "Once upon a "+string([]byte("time")), 60); err != nil {
				t.Error(err)
				return
			}
			if text, err := collect(session); err != nil || text != expected {
				t.Errorf("%q, %v; expected %q", text, err, expected)
			}
		}()
	}
	group.Wait()
	close(stop)
	collector.Wait()
}

func TestManySessionsAtTheSameTime(t *testing.T) {
	const sessions, seeds = 64, 8
	texts, failures := make([]string, sessions), make([]error, sessions)
	var group sync.WaitGroup
	for i := 0; i < sessions; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			session, err := testModel(t).NewSession(nil)
			if err != nil {
				failures[i] = err
				return
			}
			defer session.Close()
			if failures[i] = session.SetSeed(int64(i % seeds)); failures[i] == nil {
				texts[i], failures[i] = session.Generate("Once upon a time", 40)
			}
		}(i)
	}
	group.Wait()
	for i, text := range texts {
		if failures[i] != nil || text != texts[i%seeds] || text == "" {
			t.Errorf("session %d: %q, %v; expected %q", i, text, failures[i], texts[i%seeds])
		}
	}
	if texts[0] == texts[1] {
		t.Error("two seeds gave the same text")
	}
}

// residentBytes is VmRSS.
func residentBytes(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc")
	}
	for _, line := range strings.Split(string(data), "\n") {
		var kilobytes int
		if count, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kilobytes); count == 1 {
			return kilobytes << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

func TestTenThousandCyclesDoNotGrow(t *testing.T) {
	model := testModel(t)
	cycle := func() {
		config := NewConfig().SetContext(64).AddStop("stop", "another")
		session, err := model.NewSession(config)
		if err != nil {
			t.Fatal(err)
		}
		if err := session.StartText(context.Background(), "Once", 1); err != nil {
			t.Fatal(err)
		}
		for session.Next() {
		}
		if _, err := session.Describe(); err != nil {
			t.Fatal(err)
		}
		if _, err := session.Tokens(-1); !errors.Is(err, ErrArgument) {
			t.Fatal(err)
		}
		session.Close()
		config.Close()
	}
	for i := 0; i < 1000; i++ {
		cycle()
	}
	runtime.GC()
	before := residentBytes(t)
	for i := 0; i < 10000; i++ {
		cycle()
	}
	runtime.GC()
	growth := residentBytes(t) - before
	t.Logf("10,000 cycles of config, session, error: RSS %.1f MiB, grown by %.2f MiB", float64(before)/(1<<20), float64(growth)/(1<<20))
	// A leak of the smallest object in each cycle would be over a megabyte; Go's own heap moves by a few.
	if growth > 6<<20 && !raceDetector {
		t.Errorf("grown by %d bytes", growth)
	}
}

func TestModelsDoNotGrow(t *testing.T) {
	cycle := func() {
		model, err := LoadModel(testModelDir, nil)
		if err != nil {
			t.Fatal(err)
		}
		job, err := model.StartBench(nil)
		if err != nil {
			t.Fatal(err)
		}
		model.Close()
		job.Close()
	}
	for i := 0; i < 5; i++ {
		cycle()
	}
	before := residentBytes(t)
	for i := 0; i < 20; i++ {
		cycle()
	}
	growth := residentBytes(t) - before
	t.Logf("20 cycles of model and job: RSS %.1f MiB, grown by %.2f MiB", float64(before)/(1<<20), float64(growth)/(1<<20))
	if growth > 12<<20 && !raceDetector {
		t.Errorf("grown by %d bytes: 20 models", growth)
	}
}

func TestReleaseInEveryOrder(t *testing.T) {
	var permute func(order []int, rest []int)
	run := func(order []int) {
		config := NewConfig().SetContext(32).SetDevice("cpu").SetSpin(false)
		model, err := LoadModel(testModelDir, config)
		if err != nil {
			t.Fatal(err)
		}
		session, err := model.NewSession(config)
		if err != nil {
			t.Fatal(err)
		}
		batch, err := model.NewBatch(config)
		if err != nil {
			t.Fatal(err)
		}
		job, err := model.StartBench(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := session.StartText(nil, "Once", 4); err != nil { //nolint:staticcheck // nil is allowed
			t.Fatal(err)
		}
		if err := batch.Add(session); err != nil {
			t.Fatal(err)
		}
		closers := []interface{ Close() error }{config, model, session, batch, job}
		for _, index := range order {
			if index != 2 && !order2Before(order, index) {
				if !session.Next() && session.Err() != nil {
					t.Fatalf("%v before closing %d: %v", order, index, session.Err())
				}
			}
			closers[index].Close()
		}
	}
	permute = func(order []int, rest []int) {
		if len(rest) == 0 {
			run(order)
			return
		}
		for i := range rest {
			next := append(append([]int(nil), rest[:i]...), rest[i+1:]...)
			permute(append(append([]int(nil), order...), rest[i]), next)
		}
	}
	permute(nil, []int{0, 1, 2, 3, 4})
}

// order2Before tells whether the session is closed before that one.
func order2Before(order []int, index int) bool {
	for _, closed := range order {
		if closed == index {
			return false
		}
		if closed == 2 {
			return true
		}
	}
	return false
}

// TestMain is also the programs that end with everything alive.
func TestMain(m *testing.M) {
	if how := os.Getenv("NIBBLE_TEST_END"); how != "" {
		endWithEverythingAlive(how)
	}
	os.Exit(m.Run())
}

func endWithEverythingAlive(how string) {
	must := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(99)
		}
	}
	config := NewConfig().SetDevice("cpu")
	model, err := LoadModel(testModelDir, config)
	must(err)
	batch, err := model.NewBatch(nil)
	must(err)
	job, err := model.StartBench(NewConfig().SetBenchDecode(100000))
	must(err)
	go NextLogLine(-1)
	started := make(chan bool)
	for i := 0; i < 4; i++ {
		session, err := model.NewSession(nil)
		must(err)
		must(session.SetIgnoreEOS(true))
		go func() {
			must(session.StartText(context.Background(), "Once upon a time", -1))
			session.Next()
			started <- true
			for {
				session.Next()
			}
		}()
	}
	for i := 0; i < 4; i++ {
		<-started
	}
	if how == "panic" {
		panic("the host's own")
	}
	runtime.KeepAlive([]interface{}{config, model, batch, job})
	os.Exit(7)
}

func TestTheProcessEndsWithEverythingAlive(t *testing.T) {
	for how, code := range map[string]int{"exit": 7, "panic": 2} {
		for i := 0; i < 5; i++ {
			command := exec.Command(os.Args[0])
			command.Env = append(os.Environ(), "NIBBLE_TEST_END="+how)
			output, err := command.CombinedOutput()
			if command.ProcessState.ExitCode() != code {
				t.Fatalf("%s: %v\n%s", how, err, output)
			}
			if how == "panic" && !strings.Contains(string(output), "panic: the host's own") {
				t.Fatalf("%s", output)
			}
		}
	}
}

func TestAPanicBetweenCallsLeavesTheLibraryUsable(t *testing.T) {
	session := testSession(t)
	expected, err := testSession(t).Generate("Once upon a time", 20)
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		if err := session.StartText(context.Background(), "Once upon a time", 20); err != nil {
			t.Fatal(err)
		}
		for session.Next() {
			panic("the host's own")
		}
	}()
	if err := session.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if text, err := session.Generate("Once upon a time", 20); err != nil || text != expected {
		t.Errorf("%q, %v; expected %q", text, err, expected)
	}
}
