// Puts an operator new in the place of a test program's own that asks the test before it allocates. For one source file of a
// program, which defines may_allocate().
#pragma once

#include <cstdlib>
#include <new>

namespace nbl::testing {
// Called in every thread for every allocation; false: there is no memory. It allocates nothing.
bool may_allocate() noexcept;
}  // namespace nbl::testing

// What follows is malloc and free throughout, which GCC cannot see when it inlines one of them.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(std::size_t size) {
  if (nbl::testing::may_allocate()) {
    if (void* memory = std::malloc(size ? size : 1)) return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
