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

struct Run {
  ucontext_t scheduler;
  int threads_per_cta;
  std::vector<Thread> threads;    // of all CTAs
  std::vector<Warp> warps;        // of all CTAs
  std::vector<Meeting> barriers;  // one a CTA
  const std::function<void(int, int)>* body;
  int running = 0;
  std::exception_ptr error;
};
Run* run = nullptr;

void give_turn(Thread& thread) { swapcontext(&run->scheduler, &thread.context); }
void end_turn(Thread& thread) { swapcontext(&thread.context, &run->scheduler); }

void begin() {
  try {
    (*run->body)(run->running / run->threads_per_cta, run->running % run->threads_per_cta);
  } catch (...) {
    run->error = std::current_exception();
  }
  Thread& thread = run->threads[run->running];
  thread.ended = true;
  end_turn(thread);
}

void make_ready(Thread& thread, unsigned char* stack) {
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = stack;
  thread.context.uc_stack.ss_size = kStackBytes;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, begin, 0);
}

void wait_at(Meeting& meeting, int count) {
  Thread& thread = run->threads[run->running];
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

int thread_index() { return run->running % run->threads_per_cta; }

void meet_threads(int count) { wait_at(run->barriers[run->running / run->threads_per_cta], count); }

void let_others_run() { end_turn(run->threads[run->running]); }

const unsigned char* exchange(const void* value, size_t bytes) {
  Thread& thread = run->threads[run->running];
  Warp& warp = run->warps[run->running / 32];
  unsigned char* shown = warp.shown[thread.exchanges++ % 2];
  if (bytes > 0) std::memcpy(shown + 32 * (run->running % 32), value, bytes);
  wait_at(warp.meeting, 32);
  return shown;
}

void run_ctas(int ctas, int threads, Turns turns, const std::function<void(int, int)>& body) {
  static std::vector<std::unique_ptr<unsigned char[]>> stacks;
  const int count = ctas * threads;
  while (stacks.size() < static_cast<size_t>(count)) stacks.emplace_back(new unsigned char[kStackBytes]);
  Run here;
  here.threads_per_cta = threads;
  here.threads = std::vector<Thread>(count);
  here.warps = std::vector<Warp>(count / 32);
  here.barriers = std::vector<Meeting>(ctas);
  here.body = &body;
  struct Current {
    explicit Current(Run* that) { run = that; }
    ~Current() { run = nullptr; }
  } current(&here);
  for (int i = 0; i < count; ++i) make_ready(here.threads[i], stacks[i].get());
  for (int left = count; left > 0;) {
    bool moved = false;
    for (int i = 0; i < count; ++i) {
      here.running = turns == Turns::kAscending ? i : count - 1 - i;
      Thread& thread = here.threads[here.running];
      if (thread.ended || (thread.waits_for != nullptr && thread.waits_for->held < thread.waits_until)) continue;
      give_turn(thread);
      if (here.error) std::rethrow_exception(here.error);
      moved = true;
      left -= thread.ended;
    }
    if (!moved) throw std::logic_error("threads wait for a meeting to which others do not come");
  }
}

}  // namespace nbl::cuda_host
