// Logits of which only the largest are looked at: the upper bytes of the head bound every logit from both
// sides, and the lower bytes are read only for panels that hold a row which may be among the largest.
//
// With s the slack of a row and |x| the length of the input, its logit is within s * |x| of what the upper
// bytes give. The k-th largest lower bound is no more than the k-th largest logit; a row whose upper bound is
// below that is not among the k largest, whatever its lower bytes are, and its approximate value is smaller
// than theirs.
#include <algorithm>
#include <functional>
#include <limits>

#include "kernels/cpu/step.h"

namespace nbl {
namespace cpu {

namespace {
constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr int64_t kPanelsToList = 8, kPanelsToLookThrough = 64;  // at once: rows are looked through by 64
}  // namespace

bool StepWorker::only_top() const {
  const auto& weight = static_cast<const CpuWeight&>(*decoder_.head.weight);
  if (!weight.low() || weight.spec().outlier_threshold >= 0 || !decoder_.head.bias.empty() || plan_.logit_rows_ > kTopRows) return false;
  for (int64_t row = 0; row < plan_.logit_rows_; ++row)
    if (shared_.logit_top[row] < 1 || shared_.logit_top[row] > kMostTop) return false;
  return true;
}

// Brings the lower bounds of some rows into the k largest that this thread has seen, a heap with the smallest in front.
void StepWorker::list_top(const CpuWeight& weight, Range rows, int64_t row, float length) {
  const float* y = plan_.batch_->logits + row * decoder_.config.vocab_size;
  const int64_t k = shared_.logit_top[row];
  float* heap = mine_.top + row * kMostTop;
  for (int64_t n = rows.first; n < rows.last; ++n) {
    n = kernels_.next_above(y, weight.slack(), -length, heap[0], n, rows.last);
    if (n == rows.last) break;
    std::pop_heap(heap, heap + k, std::greater<float>());
    heap[k - 1] = y[n] - length * weight.slack()[n];
    std::push_heap(heap, heap + k, std::greater<float>());
  }
}

// The k-th largest of all threads' lower bounds.
float StepWorker::least_of_top(int64_t row) const {
  const int64_t k = shared_.logit_top[row];
  float* all = mine_.merged;
  for (int t = 0; t < threads_; ++t) std::copy_n(shared_.thread[t].top + row * kMostTop, k, all + t * k);
  std::nth_element(all, all + k - 1, all + threads_ * k, std::greater<float>());
  return all[k - 1];
}

void StepWorker::top_logits(const ActView& input, const float* lengths) {
  const auto& weight = static_cast<const CpuWeight&>(*decoder_.head.weight);
  const int64_t vocab = decoder_.config.vocab_size;
  float* logits = plan_.batch_->logits;
  for (int64_t row = 0; row < input.m; ++row) std::fill_n(mine_.top + row * kMostTop, shared_.logit_top[row], kNone);
  const auto rows_of = [&](Range panels) { return Range{panels.first * kPanel, std::min(panels.last * kPanel, vocab)}; };
  each_piece(weight.view(), kPanelsToList, [&](Range panels) {
    kernels_.linear(&weight.view(), &input, panels.first, panels.last, logits, vocab, mine_.partial);
    for (int64_t row = 0; row < input.m; ++row) list_top(weight, rows_of(panels), row, lengths[row]);
  });
  barrier();
  float least[kTopRows];
  for (int64_t row = 0; row < input.m; ++row) least[row] = least_of_top(row);
  each_piece(weight.view(), kPanelsToLookThrough, [&](Range panels) {
    const Range rows = rows_of(panels);
    for (int64_t n = rows.first; n < rows.last;) {
      int64_t next = rows.last;  // the first row from n on that may matter in any row of logits
      for (int64_t row = 0; row < input.m; ++row)
        next = kernels_.next_above(logits + row * vocab, weight.slack(), lengths[row], least[row], n, next);
      if (next == rows.last) break;
      const int64_t panel = next / kPanel;
      kernels_.linear(weight.low(), &input, panel, panel + 1, logits, vocab, mine_.partial);
      n = (panel + 1) * kPanel;
    }
  });
}

}  // namespace cpu
}  // namespace nbl
