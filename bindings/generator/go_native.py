"""The part of bindings/go that does not follow from the spec: handles, errors, texts, the check of the library."""

NATIVE = r'''package nibble

// #include <stdlib.h>
// #include <nibble.h>
import "C"

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Error is a failure of the library.
type Error struct {
	Code    Code   // what kind it is; errors.Is(err, nibble.ErrFormat) compares it
	Message string // what was found, what was expected, the way out
	Detail  string // the same for programs, a JSON object: {"file", "tensor", "found", "expected", "needed_bytes", ...}
	cause   error
}

// Error gives the message.
func (e *Error) Error() string { return "nibble: " + e.Message }

// Is tells whether the error has that code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// Unwrap gives the error of the context that cancelled the call.
func (e *Error) Unwrap() error { return e.cause }

func failed(code Code, format string, args ...interface{}) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Detail: "{}"}
}

func lengths(name string, length int, base string, expected int) error {
	return failed(ErrArgument, "%s has %d values and %s has %d: they must be as many", name, length, base, expected)
}

// check makes the error of a failure and releases the library's.
func check(status C.nbl_status, failure *C.nbl_error) error {
	if status >= 0 {
		return nil
	}
	var size C.size_t
	message := C.nbl_error_message(failure, &size)
	err := &Error{Code: Code(status), Message: C.GoStringN(message, C.int(size))}
	detail := C.nbl_error_detail(failure, &size)
	err.Detail = C.GoStringN(detail, C.int(size))
	C.nbl_error_release(failure)
	return err
}

// String gives the library's name of the code: "NBL_E_FORMAT".
func (c Code) String() string { return C.GoString(C.nbl_status_name(C.nbl_status(c))) }

var library struct {
	once sync.Once
	err  error
}

// checkLibrary compares, once, the library that is there with what this package was generated from.
func checkLibrary() error {
	library.once.Do(func() { library.err = checkVersion(versionMajor, versionMinor, apiHash) })
	return library.err
}

// checkVersion tells whether the library serves a package of that version. A library of the same version has the same hash;
// one of a later minor version has more functions and another hash, and serves as well.
func checkVersion(major, minor uint32, hash string) error {
	built := major<<16 | minor
	var failure *C.nbl_error
	if err := check(C.nbl_abi_check(C.uint32_t(built), &failure), failure); err != nil {
		return err
	}
	if uint32(C.nbl_abi_version()) != built {
		return nil
	}
	var out *C.char
	var size C.size_t
	if err := check(C.nbl_build_info(&out, &size, &failure), failure); err != nil {
		return err
	}
	var info struct {
		Version string `json:"version"`
		Hash    string `json:"api_hash"`
	}
	if err := json.Unmarshal([]byte(takeText(out, size)), &info); err != nil {
		return failed(ErrABI, "the library does not tell what it is: %v", err)
	}
	if info.Hash != hash {
		return failed(ErrABI, "this package was generated for nibble %d.%d with the API %s, the library that it found is %s with the API %s; "+
			"install the library and the package of the same release", major, minor, hash, info.Version, info.Hash)
	}
	return nil
}

// ref is a handle of the library and how many calls are using it. It is freed when it is closed and no call is left, so that
// closing is safe at any time and from any goroutine.
type ref struct {
	pointer unsafe.Pointer
	state   atomic.Int64 // the calls that are using it, and closed
	free    func(unsafe.Pointer)
	cancel  func(unsafe.Pointer) // nil where nothing can run for long
}

// closed in a ref's state: no further call may begin.
const closed = 1 << 32

// hold keeps the handle until drop. The handle of a nil or empty ref is NULL, which the library refuses.
func (r *ref) hold(name string) (unsafe.Pointer, error) {
	if r == nil {
		return nil, nil
	}
	for {
		state := r.state.Load()
		if state >= closed {
			return nil, failed(ErrState, "the %s has been closed", name)
		}
		if r.state.CompareAndSwap(state, state+1) {
			return r.pointer, nil
		}
	}
}

func (r *ref) drop() {
	// A closed ref is held by none anew: it comes to this once.
	if r != nil && r.state.Add(-1) == closed {
		r.free(r.pointer)
	}
}

func (r *ref) close() {
	for {
		state := r.state.Load()
		if state >= closed {
			return
		}
		if !r.state.CompareAndSwap(state, state+closed+1) {
			continue
		}
		if state > 0 && r.cancel != nil {
			r.cancel(r.pointer)
		}
		r.drop()
		return
	}
}

// cancelWith cancels what the handle is doing when the context ends, until stop is called. It goes on cancelling, because a
// call that begins clears a cancel from before it. It holds the ref, not the Session or Job, whose finalizer may still run.
func (r *ref) cancelWith(ctx context.Context) (stop func()) {
	if r == nil || ctx == nil || ctx.Done() == nil {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-ctx.Done():
		case <-end:
			return
		}
		for {
			if _, err := r.hold(""); err != nil {
				return
			}
			r.cancel(r.pointer)
			r.drop()
			select {
			case <-time.After(time.Millisecond):
			case <-end:
				return
			}
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() { close(end) })
		<-ended
	}
}

// because gives a cancelled call the context's error as its cause.
func because(ctx context.Context, err error) error {
	failure, ok := err.(*Error)
	if ok && failure.Code == ErrCancelled && ctx != nil && ctx.Err() != nil {
		failure.cause = ctx.Err()
	}
	return err
}

// use holds a Config that another handle is made with, and tells the first option that it refused.
func (c *Config) use() (*C.nbl_config, error) {
	if err := c.Err(); err != nil {
		return nil, err
	}
	return c.hold()
}

func (c *Config) keep(err error) *Config {
	if c != nil && c.err == nil {
		c.err = err
	}
	return c
}

// Err tells the first option that was refused. What takes the Config returns it too.
func (c *Config) Err() error {
	if c == nil {
		return nil
	}
	return c.err
}

// textPointer lends the bytes of a string for the time of a call. (unsafe.StringData is not there before Go 1.20.)
func textPointer(text string) *C.char {
	if text == "" {
		return nil
	}
	return (*C.char)(*(*unsafe.Pointer)(unsafe.Pointer(&text)))
}

// first lends the elements of a slice for the time of a call.
func first[T any](values []T) unsafe.Pointer {
	if len(values) == 0 {
		return nil
	}
	return unsafe.Pointer(&values[0])
}

// takeText copies a text of the library and frees it.
func takeText(out *C.char, size C.size_t) string {
	text := string(unsafe.Slice((*byte)(unsafe.Pointer(out)), int(size)))
	C.nbl_free(unsafe.Pointer(out))
	return text
}

// scratch is what the library writes into where it is called for every token: C's memory must not be on a goroutine's stack, and
// a piece of heap for each would cost more than the call.
type scratch struct {
	bytes   []byte
	length  C.size_t
	failure *C.nbl_error
}

var scratches = sync.Pool{New: func() interface{} { return &scratch{bytes: make([]byte, 512)} }}

func takeScratch() *scratch { return scratches.Get().(*scratch) }

func giveScratch(s *scratch) {
	if len(s.bytes) <= 1<<16 {
		scratches.Put(s)
	}
}

// text and grow use the length that the library wrote.
func (s *scratch) text() []byte { return s.bytes[:int(s.length)] }

func (s *scratch) grow() { s.bytes = make([]byte, int(s.length)) }

func flag(value bool) int64 {
	if value {
		return 1
	}
	return 0
}

// milliseconds rounds up: a wait of a microsecond is not one of none. Below zero is for ever.
func milliseconds(timeout time.Duration) C.int32_t {
	if timeout < 0 {
		return -1
	}
	count := (timeout + time.Millisecond - 1) / time.Millisecond
	if count > math.MaxInt32 {
		count = math.MaxInt32
	}
	return C.int32_t(count)
}
'''
