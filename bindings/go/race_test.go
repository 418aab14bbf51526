//go:build race

package nibble

// The race detector's own memory grows with the program.
const raceDetector = true
