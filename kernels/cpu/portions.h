// Portions: how the threads of a step share the panels of one matrix.
//
// Every thread has a portion of its own, the same one in every step, and works through it from the front, piece by piece. A
// thread that is done takes pieces from the end of what another has left. Cores are not equally fast from one moment to the
// next (a neighbour on the memory or on the core, a virtual machine that loses its turn), and at the barrier all wait for the
// last: with two threads of which one is a quarter slower, a fixed share costs a tenth of the time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace nbl {
namespace cpu {

class Portions {
 public:
  static constexpr int kSlots = 4;

  explicit Portions(int threads) : threads_(threads), portions_(new Portion[static_cast<size_t>(kSlots * threads)]) {}

  // The piece that `thread` does next of the `count` of matrix number `round`; negative when all are taken. Rounds are counted
  // up by all threads alike; of kSlots + 1 that follow one another, a barrier lies between the first and the last.
  int64_t take(uint64_t round, int64_t count, int thread) {
    Portion* portions = &portions_[round % kSlots * static_cast<uint64_t>(threads_)];
    const Range own = portion(count, thread);
    for (State state = look(portions[thread], round, own); state.left() > 0; state = look(portions[thread], round, own)) {
      if (portions[thread].replace(state, round, state.front + 1, state.back)) return own.first + state.front;
    }
    for (;;) {
      int most = -1;
      State best;
      for (int other = 0; other < threads_; ++other) {
        const State state = look(portions[other], round, portion(count, other));
        if (state.left() > best.left()) best = state, most = other;
      }
      if (most < 0) return -1;
      if (portions[most].replace(best, round, best.front, best.back - 1)) return portion(count, most).first + best.back - 1;
    }
  }

 private:
  struct Range {
    int64_t first, last;
  };
  // What is left of a portion: [front, back), counted from its first piece.
  struct State {
    uint64_t bits = 0;  // as they were found
    int64_t front = 0, back = 0;
    int64_t left() const { return back - front; }
  };
  static constexpr int kBits = 21;  // of front and of back: a vocabulary has at most 2^20 panels; the rest is of the round

  struct alignas(64) Portion {
    bool replace(const State& found, uint64_t round, int64_t front, int64_t back) {
      uint64_t expected = found.bits;
      const uint64_t bits = round << 2 * kBits | static_cast<uint64_t>(front) << kBits | static_cast<uint64_t>(back);
      return left.compare_exchange_strong(expected, bits, std::memory_order_relaxed);
    }
    std::atomic<uint64_t> left{~uint64_t{0}};
  };

  Range portion(int64_t count, int thread) const { return {count * thread / threads_, count * (thread + 1) / threads_}; }

  // A portion that was last touched in another round is whole.
  static State look(const Portion& portion, uint64_t round, Range whole) {
    State state;
    state.bits = portion.left.load(std::memory_order_relaxed);
    constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
    if (state.bits >> 2 * kBits == (round << 2 * kBits) >> 2 * kBits) {
      state.front = static_cast<int64_t>(state.bits >> kBits & kMask);
      state.back = static_cast<int64_t>(state.bits & kMask);
    } else {
      state.back = whole.last - whole.first;
    }
    return state;
  }

  const int threads_;
  std::unique_ptr<Portion[]> portions_;  // [kSlots][threads]
};

}  // namespace cpu
}  // namespace nbl
