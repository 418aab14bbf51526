//go:build !nibble_noconfig

package nibble

// Where header and library are is asked of pkg-config. With -tags nibble_noconfig it is not asked, and CGO_CFLAGS and
// CGO_LDFLAGS tell it: CGO_CFLAGS="-I/opt/nibble/include" CGO_LDFLAGS="-L/opt/nibble/lib -lnibble -Wl,-rpath,/opt/nibble/lib".

// #cgo pkg-config: nibble
import "C"
