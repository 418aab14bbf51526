// StepWorker: what one thread does in a step, from token ids to logits. All threads run the same program and
// meet at the pool's barriers; the stages of a layer are qkv | attention | output | gate-up | down.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/plan.h"

namespace nbl {
namespace cpu {

class StepWorker {
 public:
  StepWorker(CpuPlan& plan, int thread, int threads)
      : plan_(plan),
        decoder_(*plan.decoder_),
        kernels_(plan.kernels_),
        shared_(plan.scratch_),
        mine_(plan.scratch_.thread[thread]),
        thread_(thread),
        threads_(threads),
        m_(plan.tokens_),
        round_(plan.first_round_) {}

  void run();

 private:
  struct Range {
    int64_t first, last;
  };
  Range share(int64_t count) const { return {count * thread_ / threads_, count * (thread_ + 1) / threads_}; }
  void barrier() {
    plan_.pool_->barrier([this] {
      fetch(&ahead_, 4);
      relax();
      return ahead_.at < ahead_.end;
    });
  }

  void embed();
  void attention_block(const Block& block, int64_t layer);
  bool activates_at_once(const Mlp& mlp) const;
  void gate_and_up(const Block& block);
  void mlp_block(const Block& block, const Linear& next);
  void logits();
  bool only_top() const;
  void top_logits(const ActView& input, const float* lengths);
  void list_top(const CpuWeight& weight, Range rows, int64_t row, float length);
  float least_of_top(int64_t row) const;

  const float* rounded(const CpuWeight& weight, const float* row, float* scratch, bool counts) const;
  // Packs what rows(token, scratch) returns for m tokens, for `weight`. One token: every thread for itself.
  template <typename Rows>
  ActView pack(const CpuWeight& weight, int64_t m, Rows rows);
  // out[t * ldo + n] = (W x)[n] + bias[n] for the rows that this thread takes, over several linears of one input. `next` is the
  // matrix that comes behind them, if any.
  template <typename Rows>
  void project(const std::vector<Linear>& linears, int64_t m, const Linear* next, float* out, int64_t ldo, Rows rows);
  // The same of one linear; then(rows) is called with the rows of every piece, of two matrices that alternate with those of the
  // first.
  template <typename Then>
  void product(const Linear& linear, const ActView& input, const Linear* next, float* out, int64_t ldo, Then then);
  // Calls work(panels) for pieces of the matrix, until the threads together have had all of it.
  template <typename Work>
  void each_piece(const WeightView& view, int64_t panels_a_piece, Work work);
  void add_to_hidden(Range rows);
  void look_ahead(const Linear* next);

  const float* normed(const Norm& norm, const float* x, int64_t width, float* out);
  void activate(const Mlp& mlp, const float* gate, const float* up, int64_t count, float* out);

  void place_keys_and_values(const Block& block, int64_t layer, int64_t token, int64_t kv_head);
  void prepare_query(const Block& block, int64_t token, int64_t head);
  void rotate(float* head, int64_t token) const;
  void attend_all(const Block& block, int64_t layer);
  struct Piece {
    int64_t index, count;
  };
  int64_t pieces_wanted(int64_t items) const;
  void attend_tile(const Block& block, int64_t layer, int64_t sequence, int64_t kv_head, int64_t tile, Piece piece, Ahead* ahead);
  void fetch_places(int64_t layer) const;
  Ahead first_keys(const Block& block, int64_t layer, int64_t kv_head) const;
  void merge_pieces(int64_t count);

  CpuPlan& plan_;
  const Decoder& decoder_;
  const Kernels& kernels_;
  const PlanScratch& shared_;
  const ThreadScratch& mine_;
  const int thread_, threads_;
  const int64_t m_;
  uint64_t round_;  // of the next matrix
  Ahead ahead_{};   // the beginning of this thread's portion of it, in a step of one token
};

// How many panels make a piece: about as many as a core reads in a microsecond. Two panels are worked on at once, so they
// stay together, but for the loops of one token; gate and up that alternate always do.
inline int64_t panels_a_piece(const WeightView& view, int64_t m, int planes) {
  constexpr int64_t kPieceBytes = 32 << 10;
  if (m > 1) return 2;
  const int64_t panels = std::max<int64_t>(1, kPieceBytes / view.panel_bytes);
  return planes == 2 && !view.alternating ? panels : (panels + 1) / 2 * 2;
}

template <typename Work>
void StepWorker::each_piece(const WeightView& view, int64_t panels_a_piece, Work work) {
  const int64_t panels = (view.rows + kPanel - 1) / kPanel, pieces = (panels + panels_a_piece - 1) / panels_a_piece;
  for (int64_t piece; (piece = plan_.portions_.take(round_, pieces, thread_)) >= 0;)
    work(Range{piece * panels_a_piece, std::min((piece + 1) * panels_a_piece, panels)});
  ++round_;
}

}  // namespace cpu
}  // namespace nbl
