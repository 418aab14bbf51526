//go:build !race

package nibble

const raceDetector = false
