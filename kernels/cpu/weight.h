// CpuWeight: a matrix (or several, rows one after another) in the panels that isa.h describes. Gate and up of whole panels
// alternate, panel by panel: the thread that has multiplied both activates them.
//
// Blocks: a group of more than 128 columns is cut into equal blocks that repeat its scale; a group whose
// length is no multiple of 8 is padded, and `columns` says which column of x stands at each position (-1:
// none, it counts as zero). The same table carries GPTQ's act-order.
//
// The head (WeightRole::kHead, float weights, not in the float32 precision) is stored as 16-bit integers with
// a scale for each row and block, closer to the original than its own rounding to half precision. Their upper
// and lower bytes stand apart:
//   W = scale * (256 * (high - 127.5) + (low - 128))
// Who looks only at the largest logits reads the upper bytes, and the lower ones only where `slack()` says
// that a row may be among them.
#pragma once

#include <array>
#include <functional>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/pool.h"

namespace nbl {
namespace cpu {

// How a spec is cut into blocks and how many bytes that takes.
struct Layout {
  int32_t code = kF32;
  int32_t scale_type = kScaleF32;
  int64_t rows = 0, columns = 0;  // N of all parts, K
  int64_t panels = 0;
  int64_t block = 0, last_block = 0;  // columns
  int64_t blocks_per_group = 1;
  int64_t positions = 0;    // K with its padding
  int64_t alternating = 0;  // WeightView
  bool in_order = true;     // position p is column p of k_order
  bool split = false;                                        // two byte planes: a head
  PanelShape panel{};
  int64_t panel_bytes = 0;  // of one plane
  int64_t slack_bytes = 0;
  int64_t plane_bytes() const { return panels * panel_bytes; }
  int64_t bytes() const { return plane_bytes() * (split ? 2 : 1) + slack_bytes; }
};

Status check_spec(const WeightSpec& spec);
Layout layout_of(const std::vector<WeightSpec>& parts, WeightRole role, CpuPrecision precision);

// Whether `part` can stand below `first` in one matrix.
bool can_follow(const WeightSpec& first, const WeightSpec& part);

class CpuWeight final : public PackedWeight {
 public:
  // part(i) gives the i-th matrix, which lives until the next one is asked for: each is packed before that.
  using Parts = std::function<Result<const QuantWeight*>(size_t)>;
  static Result<std::shared_ptr<const PackedWeight>> pack(std::vector<WeightSpec> specs, const Parts& part,
                                                          WeightRole role, CpuPrecision precision,
                                                          const Kernels& kernels, Pool& pool, Arena& arena);

  int64_t bytes() const override { return bytes_; }
  // The lower plane of a split head is read for the few rows only that may be the best.
  int64_t bytes_read() const override { return slack_ ? bytes_ / 2 : bytes_; }
  std::string kernel() const override { return kernel_; }

  const WeightView& view() const { return view_; }
  // The lower bytes of a split head, to be added to what view() gives; null when view() is all there is.
  const WeightView* low() const { return slack_ ? &low_ : nullptr; }
  // [rows], how far view() alone may be from the whole product, for an input of length (2-norm) 1.
  const float* slack() const { return slack_; }
  int64_t columns() const { return columns_; }
  int64_t positions() const { return positions_; }
  // [positions], column of x or -1; null when position p is column p (positions behind the last column are
  // zero).
  const int32_t* order() const { return order_.empty() ? nullptr : order_.data(); }
  bool takes_integers() const { return integers_; }
  // Whether activations packed for `other` serve this one too.
  bool same_input(const CpuWeight& other) const;

 private:
  CpuWeight(WeightSpec spec) : PackedWeight(std::move(spec)) {}
  void make_integer_codebook();

  WeightView view_{}, low_{};
  const float* slack_ = nullptr;
  std::array<float, 16> codebook_{};
  std::array<uint8_t, 16> high_bytes_{}, low_bytes_{};
  std::vector<int32_t> order_;
  std::shared_ptr<uint8_t> memory_;
  int64_t columns_ = 0, positions_ = 0, bytes_ = 0;
  bool integers_ = false;
  std::string kernel_;
};

}  // namespace cpu
}  // namespace nbl
