// Ahead: memory that a thread reads next, asked for while it does something that leaves the memory at rest.
//
// One thing to know: a core keeps some twenty lines under way for such requests and forgets the ones beyond, so they are of use
// only where few of them stand between other work, about one for every ten cycles. The function is static, as isa.h wants.
#pragma once

#include <stdint.h>

namespace nbl {
namespace cpu {

constexpr int64_t kLine = 64;

struct Ahead {
  const uint8_t* at;
  const uint8_t* end;
};

// Asks for the next lines, as far as there is something.
static inline void fetch(Ahead* ahead, int64_t lines) {
  const uint8_t* at = ahead->at;
  for (; lines > 0 && at < ahead->end; --lines, at += kLine) __builtin_prefetch(at);
  ahead->at = at;
}

}  // namespace cpu
}  // namespace nbl
