#include "terminal.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

#include <atomic>
#include <chrono>

namespace terminal {
namespace {

// What Ctrl-C cancels. Set before the handler is installed and cleared after it is removed.
std::atomic<nbl_session*> current_session{nullptr};
std::atomic<nbl_job*> current_job{nullptr};
struct sigaction previous_action;

void on_interrupt(int) {
  if (nbl_session* session = current_session) nbl_session_cancel(session);  // both are async-signal-safe
  if (nbl_job* job = current_job) nbl_job_cancel(job);
}

void install() {
  struct sigaction action;
  std::memset(&action, 0, sizeof(action));
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &previous_action);
}

bool is_fancy(int stream) {
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  return isatty(stream) && term && std::strcmp(term, "dumb") != 0 && !(no_color && *no_color);
}

std::string formatted(const char* format, double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof(buffer), format, value);
  return buffer;
}

}  // namespace

const char* style(int stream, Style style) {
  static const bool fancy[2] = {is_fancy(STDOUT_FILENO), is_fancy(STDERR_FILENO)};
  if (!fancy[stream == STDERR_FILENO]) return "";
  switch (style) {
    case Style::kDim: return "\033[2m";
    case Style::kBold: return "\033[1m";
    case Style::kRed: return "\033[31m";
    case Style::kGreen: return "\033[32m";
    case Style::kPlain: break;
  }
  return "\033[0m";
}

std::string styled(int stream, Style kind, const std::string& text) {
  return style(stream, kind) + text + style(stream, Style::kPlain);
}

Interruptible::Interruptible(nbl_session* session) {
  current_session = session;
  install();
}
Interruptible::Interruptible(nbl_job* job) {
  current_job = job;
  install();
}
Interruptible::~Interruptible() {
  sigaction(SIGINT, &previous_action, nullptr);
  current_session = nullptr;
  current_job = nullptr;
}

void wait(nbl_job* job, const std::string& label) {
  const Interruptible scope(job);
  const auto start = std::chrono::steady_clock::now();
  const bool shows = isatty(STDERR_FILENO);
  bool shown = false;
  const auto clear = [&] {
    if (shown) std::fprintf(stderr, "\r\033[K");
  };
  try {
    while (client::call(nbl_job_wait, job, 100) == NBL_PENDING) {
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
      if (!shows || passed.count() < 0.4) continue;
      uint64_t done = 0, total = 0;
      client::call(nbl_job_progress, job, &done, &total);
      const double percent = total ? 100.0 * static_cast<double>(done) / static_cast<double>(total) : 0;
      std::fprintf(stderr, "\r\033[K%s%s %.0f %% (%.0f s)%s", style(2, Style::kDim), label.c_str(), percent, passed.count(),
                   style(2, Style::kPlain));
      std::fflush(stderr);
      shown = true;
    }
  } catch (...) {
    clear();
    throw;
  }
  clear();
}

std::string bytes(int64_t count) {
  const double value = static_cast<double>(count);
  if (value >= 1e9) return formatted("%.2f GB", value * 1e-9);
  if (value >= 1e6) return formatted("%.1f MB", value * 1e-6);
  return formatted("%.1f kB", value * 1e-3);
}

std::string rate(double value) { return formatted(value >= 100 ? "%.0f" : value >= 10 ? "%.1f" : "%.2f", value); }

}  // namespace terminal
