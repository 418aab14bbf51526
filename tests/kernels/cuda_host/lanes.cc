// The fibers of lanes.h and the order in which they run.
#include "kernels/cuda_host/lanes.h"

#include <ucontext.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

namespace nbl::cuda_host {
namespace {

constexpr size_t kStackBytes = 128 * 1024;

// A place where a number of threads wait for each other, again and again.
struct Meeting {
  int arrived = 0;
  int64_t held = 0;  // so many times all were there
};

struct Warp {
  Meeting meeting;
  unsigned char shown[2][32 * 32];  // an exchange writes one while the slowest lane still reads the other
};

struct Thread {
  ucontext_t context;
  const Meeting* waits_for = nullptr;
  int64_t waits_until = 0;  // that meeting has been held so often
  int exchanges = 0;
  bool ended = false;
};

struct Cta {
  ucontext_t scheduler;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Meeting barrier;
  const std::function<void(int)>* body;
  int running = 0;
  std::exception_ptr error;
};
Cta* cta = nullptr;

void give_turn(Thread& thread) { swapcontext(&cta->scheduler, &thread.context); }
void end_turn(Thread& thread) { swapcontext(&thread.context, &cta->scheduler); }

void begin() {
  try {
    (*cta->body)(cta->running);
  } catch (...) {
    cta->error = std::current_exception();
  }
  Thread& thread = cta->threads[cta->running];
  thread.ended = true;
  end_turn(thread);
}

void wait_at(Meeting& meeting, int count) {
  Thread& thread = cta->threads[cta->running];
  if (++meeting.arrived == count) {
    meeting.arrived = 0;
    ++meeting.held;
    return;
  }
  thread.waits_for = &meeting;
  thread.waits_until = meeting.held + 1;
  end_turn(thread);
  thread.waits_for = nullptr;
}

}  // namespace

int thread_index() { return cta->running; }

void meet_threads(int count) { wait_at(cta->barrier, count); }

const unsigned char* exchange(const void* value, size_t bytes) {
  Thread& thread = cta->threads[cta->running];
  Warp& warp = cta->warps[cta->running / 32];
  unsigned char* shown = warp.shown[thread.exchanges++ % 2];
  std::memcpy(shown + 32 * (cta->running % 32), value, bytes);
  wait_at(warp.meeting, 32);
  return shown;
}

void run_threads(int count, Turns turns, const std::function<void(int)>& body) {
  Cta here;
  here.threads = std::vector<Thread>(count);
  here.warps = std::vector<Warp>((count + 31) / 32);
  here.body = &body;
  cta = &here;
  static std::vector<std::unique_ptr<unsigned char[]>> stacks;
  while (stacks.size() < here.threads.size()) stacks.emplace_back(new unsigned char[kStackBytes]);
  for (int i = 0; i < count; ++i) {
    Thread& thread = here.threads[i];
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = stacks[i].get();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, begin, 0);
  }
  for (int left = count; left > 0;) {
    bool moved = false;
    for (int i = 0; i < count; ++i) {
      here.running = turns == Turns::kAscending ? i : count - 1 - i;
      Thread& thread = here.threads[here.running];
      if (thread.ended || (thread.waits_for != nullptr && thread.waits_for->held < thread.waits_until))
        continue;
      give_turn(thread);
      if (here.error) {
        cta = nullptr;
        std::rethrow_exception(here.error);
      }
      moved = true;
      left -= thread.ended;
    }
    if (!moved) {
      cta = nullptr;
      throw std::logic_error("threads wait for a meeting to which others do not come");
    }
  }
  cta = nullptr;
}

}  // namespace nbl::cuda_host
