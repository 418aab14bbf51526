// Drawing a token from a row of logits, as kernels/draw.h says it. A cluster of eight CTAs takes a row (one CTA where
// there are no clusters), each a slice of the vocabulary, which it keeps in its own memory.
//
// Probabilities are weights exp((logit - best) / temperature) as integers in units of 2^-44: sums of them do not depend
// on the order, so the same logits give the same id, always. Every cut (top_k, top_p, typical_p) looks for the element at
// which a running sum in some order reaches a number: sampling_select.cuh.
//
// Mostly there is a shorter way: the tokens near the best one, a few hundred, decide, because there are top_k of them or
// because they have top_p of the weight. One CTA puts these into order, one a thread, and does all cuts and the draw.
// Bound: one reading of the logits, two passes over them in shared memory and five barriers of a cluster.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/sampling/sampling.h"
#include "kernels/cuda/sampling/sampling_select.cuh"

namespace nbl::cuda {
// Functions of the device are inline here, also where they are not inlined: else the compiler keeps stubs of them for the
// host, which call exit().
using namespace sampling;
namespace {

constexpr uint64_t kNotFinite = 1ull << 32;  // what a thread that has met NaN or infinity adds to a count of elements
constexpr int kShort = 512;  // elements that are put into order at once, where no top_k says how many there must be

// Over the threads of one CTA: the sum up to this thread, and of all.
__device__ inline uint64_t block_scan(Shared& shared, uint64_t mine, uint64_t* all) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint64_t upto = warp_scan64(mine, lane);
  if (lane == 31) shared.warp_sums[warp] = upto;
  __syncthreads();
  const uint64_t of_lane = lane < kWarps ? shared.warp_sums[lane] : 0;
  *all = warp_sum64(of_lane);
  upto += warp_sum64(lane < warp ? of_lane : 0);
  __syncthreads();
  return upto;
}

// Puts the list into order, the largest key first (a bitonic network), and gives each thread its element.
__device__ inline Listed sort_list(Shared& shared, const Listed& mine, int size) {
  const int tid = threadIdx.x;
  __syncthreads();
  if (tid < size) shared.list[tid] = mine;
  __syncthreads();
  for (int block = 2; block <= size; block *= 2) {
    for (int step = block / 2; step > 0; step /= 2) {
      const int other = tid ^ step;
      if (other > tid && other < size) {
        const Listed a = shared.list[tid], b = shared.list[other];
        if ((a.key < b.key) == ((tid & block) == 0)) shared.list[tid] = b, shared.list[other] = a;
      }
      __syncthreads();
    }
  }
  return tid < size ? shared.list[tid] : Listed{0, 0};
}

// All cuts and the draw from the short list, by one CTA. `all` is the weight of all elements; top_k 0: no such cut. Leaves
// shared.drawn at -1 when the list may not have everything that is left.
__device__ inline void draw_from_list(Shared& shared, const DrawState& state, const Scale& scale, int top_k, uint64_t all) {
  const int tid = threadIdx.x, count = static_cast<int>(shared.listed);
  int size = 2;
  while (size < count) size *= 2;
  Listed mine = sort_list(shared, tid < count ? shared.list[tid] : Listed{0, 0}, size);
  if (tid >= count || (top_k > 0 && tid >= top_k)) mine.weight = 0;
  uint64_t sum;
  uint64_t upto = block_scan(shared, mine.weight, &sum);
  if (state.top_p < 1) {
    const uint64_t wanted = share(state.top_p, top_k > 0 ? sum : all);
    if (sum < wanted) return;
    if (upto - mine.weight >= wanted) mine.weight = 0;
  }
  if (mine.weight < state.min_weight) mine.weight = 0;
  if (state.typical_p < 1) {
    const int32_t id = id_of(mine.key);
    const float v = float_of(static_cast<uint32_t>(mine.key >> 32));
    uint64_t moment;
    block_scan(shared, mine.weight, &sum);
    block_scan(shared, mine.weight > 0 ? moment_of(mine.weight, scale.distance(v)) : 0, &moment);
    const uint32_t odd = Left::oddness(scale, v, centre_of(moment, sum));
    mine = sort_list(shared, mine.weight > 0 ? Listed{key_of(odd, id), mine.weight} : Listed{0, 0}, size);
    const uint64_t wanted = share(state.typical_p, sum);
    upto = block_scan(shared, mine.weight, &sum);
    if (upto - mine.weight >= wanted) mine.weight = 0;
  }
  mine = sort_list(shared, mine.weight > 0 ? Listed{key_of(0, id_of(mine.key)), mine.weight} : Listed{0, 0}, size);
  upto = block_scan(shared, mine.weight, &sum);
  uint64_t target = static_cast<uint64_t>(philox_uniform(state.seed, state.step) * static_cast<double>(sum));
  if (target >= sum) target = sum - 1;
  if (upto - mine.weight <= target && target < upto) shared.drawn = id_of(mine.key);
}

__device__ __forceinline__ uint32_t bin_of(float best, float v) {
  return static_cast<uint32_t>(fminf((best - v) * kBinsPerUnit, kBins - 1.f));
}

// Tries the short way: false when the long one must be gone.
template <bool kCluster>
__device__ inline bool draw_shortly(const Team<kCluster>& team, Shared& shared, const Slice& slice, const DrawState& state,
                                    const Scale& scale, int top_k, int& turn, int32_t* drawn) {
  const int tid = threadIdx.x;
  for (int bin = tid; bin < kBins; bin += kThreads) shared.count[bin] = 0;
  if (tid == 0) shared.listed = 0, shared.pivot.bin = kNoBin, shared.drawn = -1;
  __syncthreads();
  uint64_t weight = 0;
  const bool wants_sum = top_k == 0 && state.top_p < 1;
#pragma unroll 4
  for (int i = tid; i < slice.count; i += kThreads) {
    const float v = slice.at(i);
    if (!(v > -INFINITY)) continue;
    const uint32_t bin = bin_of(scale.best, v);
    if (bin < kBins - 1) atomicAdd(&shared.count[bin], 1u);
    if (wants_sum) weight += scale.weight(v);
  }
  const uint64_t all = team_sum(team, shared, weight, turn);  // its barrier also shows the counts
  if (team.rank == 0) {
    uint32_t count[2] = {0, 0};
    for (int other = 0; other < team.size; ++other) {
      const unsigned* counts = team.at(shared.count, other);
      count[0] += counts[2 * tid], count[1] += counts[2 * tid + 1];
    }
    uint64_t sum;
    const uint64_t second = block_scan(shared, count[0] + count[1], &sum), first = second - count[1], before = first - count[0];
    const auto enough = [&](uint64_t in_front, uint64_t upto) {
      return in_front < static_cast<uint64_t>(top_k) && static_cast<uint64_t>(top_k) <= upto && upto <= kListed;
    };
    int bin = -1;
    if (top_k > 0) {
      bin = enough(before, first) ? 2 * tid : enough(first, second) ? 2 * tid + 1 : -1;
    } else {
      bin = second <= kShort ? 2 * tid + 1 : first <= kShort ? 2 * tid : -1;
    }
    if (bin >= 0) atomicMax(reinterpret_cast<int*>(&shared.pivot.bin), min(bin, kBins - 2));  // kNoBin is -1
  }
  team.sync();
  const uint32_t last = team.at(&shared.pivot, 0)->bin;
  if (last == kNoBin) return false;
  if (top_k == 0 && state.top_p >= 1) {
    // All that is heavy enough must be in the list: behind it everything is farther than this.
    const float x = (static_cast<float>(last) + 0.75f) / kBinsPerUnit * scale.high;
    if (Scale::weight_at(make_float2(fminf(x, 64.f), 0.f)) >= state.min_weight) return false;
  }
  unsigned* listed = team.at(&shared.listed, 0);
  Listed* list = team.at(shared.list, 0);
#pragma unroll 4
  for (int i = tid; i < slice.count; i += kThreads) {
    const float v = slice.at(i);
    if (!(v > -INFINITY) || bin_of(scale.best, v) > last) continue;
    list[atomicAdd(listed, 1u)] = {key_of(ordered_bits(v), slice.begin + i), scale.weight(v)};
  }
  team.sync();
  if (team.rank == 0) draw_from_list(shared, state, scale, top_k, all);
  team.sync();
  *drawn = *team.at(&shared.drawn, 0);
  return *drawn >= 0;
}

// Whether there is nothing that changes logits.
__device__ inline bool keeps_logits(const DrawState& state) {
  return state.bias_count == 0 && state.history == nullptr && state.step >= state.forbidden_until;
}

// Bias, penalties and forbidden ids on this CTA's slice.
__device__ inline void change_logits(const DrawState& state, const Slice& slice, uint32_t* occurrences) {
  const int tid = threadIdx.x;
  const auto inside = [&](int32_t id) { return id >= slice.begin && id < slice.begin + slice.count; };
  if (state.bias_count > 0) {  // the first of equal ids adds them all, in their order
    for (int i = tid; i < state.bias_count; i += kThreads) {
      const int32_t id = state.bias[i].id;
      if (!inside(id) || (i > 0 && state.bias[i - 1].id == id)) continue;
      float v = slice.values[id - slice.begin];
      for (int j = i; j < state.bias_count && state.bias[j].id == id; ++j) v += state.bias[j].value;
      slice.values[id - slice.begin] = v;
    }
    __syncthreads();
  }
  if (state.history != nullptr) {
    const bool repetition = state.repetition != 1.f, answer = state.presence != 0.f || state.frequency != 0.f;
    const int from = state.window > 0 ? max(0, state.token_count - state.window) : 0;
    for (int i = from + tid; i < state.token_count; i += kThreads) {
      const int32_t id = state.history[i];
      if (!inside(id)) continue;
      if (repetition) atomicOr(&occurrences[id], 0x80000000u);
      if (answer && i >= state.answer_start) atomicAdd(&occurrences[id], 1u);
    }
    __syncthreads();
    for (int i = from + tid; i < state.token_count; i += kThreads) {
      const int32_t id = state.history[i];
      if (!inside(id)) continue;
      const uint32_t seen = atomicExch(&occurrences[id], 0u);  // one thread finds it
      if (seen == 0) continue;
      float v = slice.values[id - slice.begin];
      if (seen >> 31) v = v > 0.f ? __fdiv_rn(v, state.repetition) : __fmul_rn(v, state.repetition);
      for (uint32_t n = 0; n < (seen & 0x7fffffffu); ++n) v = __fsub_rn(v, __fadd_rn(state.frequency, n == 0 ? state.presence : 0.f));
      slice.values[id - slice.begin] = v;
    }
    __syncthreads();
  }
  if (state.step < state.forbidden_until) {
    if (tid < state.forbidden_count && inside(state.forbidden[tid])) slice.values[state.forbidden[tid] - slice.begin] = -INFINITY;
    __syncthreads();
  }
}

// Hands the id over, and makes the step's input that of the step behind it. By one thread of the team. Where none could be
// drawn the host abandons the steps behind this one: until then they run with an id that is one.
__device__ inline void publish(DrawState* state, int row, const StepRows& step, bool advance, int32_t* ring, int max_draws, int32_t id) {
  ring[state->ring_step * max_draws + row] = id;
  state->ring_step = (state->ring_step + 1) % kRingSteps;
  if (!advance) return;
  id = max(id, 0);
  if (state->history != nullptr) state->history[state->token_count] = id;
  ++state->token_count;
  ++state->step;
  const_cast<int32_t*>(step.tokens)[row] = id;
  ++const_cast<int32_t*>(step.positions)[row];
  ++const_cast<StepSequence*>(step.sequences)[row].length;
}

template <bool kCluster>
__global__ void __launch_bounds__(kThreads, 1) draw_rows(DrawScratch scratch, StepRows step, bool advance, const float* logits, int vocab,
                                                         RowBests bests) {
  extern __shared__ __align__(16) unsigned char bytes[];
  Shared& shared = *reinterpret_cast<Shared*>(bytes);
  const Team<kCluster> team;
  const int row = blockIdx.x / team.size, tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  DrawState* const there = scratch.states + row;
  if (there->logit_row < 0) return;
  static_assert(sizeof(DrawState) % 4 == 0 && sizeof(DrawState) / 4 <= kThreads, "a thread copies a word");
  if (tid < static_cast<int>(sizeof(DrawState) / 4)) {
    reinterpret_cast<uint32_t*>(&shared.state)[tid] = reinterpret_cast<const uint32_t*>(there)[tid];
  }
  __syncthreads();
  const DrawState& state = shared.state;

  if (bests.parts != nullptr && state.greedy && keeps_logits(state)) {
    if (team.rank > 0 || warp > 0) return;
    float best = -INFINITY;
    int32_t best_id = 0x7fffffff;
    for (int i = lane; i < bests.count; i += 32) {
      const float2 part = __ldcg(reinterpret_cast<const float2*>(bests.parts) + i);
      keep_better(best, best_id, part.x, __float_as_int(part.y));
    }
    warp_best(best, best_id);
    if (lane == 0) {
      const int32_t id = best > kLargest ? kLogitsNotFinite : best_id == 0x7fffffff ? kNothingToDraw : best_id;
      publish(there, row, step, advance, scratch.ring, scratch.max_draws, id);
    }
    return;
  }

  const int per_cta = ((vocab + team.size - 1) / team.size + 3) / 4 * 4;
  Slice slice;
  slice.begin = min(vocab, team.rank * per_cta);
  slice.count = min(vocab, slice.begin + per_cta) - slice.begin;
  slice.values = scratch.logits != nullptr ? scratch.logits + static_cast<int64_t>(row) * vocab + slice.begin
                                           : reinterpret_cast<float*>(bytes + sizeof(Shared));
  const float* from = logits + static_cast<int64_t>(state.logit_row) * vocab + slice.begin;
  const int quads = vocab % 4 == 0 ? slice.count / 4 : 0;  // then every row and slice is aligned
  bool finite = true;  // neither NaN nor plus infinity
#pragma unroll 5
  for (int i = tid; i < quads; i += kThreads) {
    const float4 v = __ldcg(reinterpret_cast<const float4*>(from) + i);
    finite &= (v.x <= kLargest) & (v.y <= kLargest) & (v.z <= kLargest) & (v.w <= kLargest);
    reinterpret_cast<float4*>(slice.values)[i] = v;
  }
#pragma unroll 4
  for (int i = 4 * quads + tid; i < slice.count; i += kThreads) {
    const float v = __ldcg(from + i);
    finite &= v <= kLargest;
    slice.values[i] = v;
  }
  __syncthreads();
  change_logits(state, slice, scratch.occurrences + static_cast<int64_t>(row) * vocab);

  float best = -INFINITY;
  int32_t best_id = 0x7fffffff;
  uint64_t possible = finite ? 0 : kNotFinite;
  for (int i = tid; i < slice.count; i += kThreads) {
    const float v = slice.at(i);
    if (v > best || best_id == 0x7fffffff) best = v, best_id = slice.begin + i;
    possible += v > -INFINITY;
  }
  warp_best(best, best_id);
  if (lane == 0) shared.best_logit[warp] = best, shared.best_id[warp] = best_id;
  __syncthreads();
  if (warp == 0) {
    best = shared.best_logit[lane], best_id = shared.best_id[lane];
    warp_best(best, best_id);
    if (lane == 0) shared.team_best = best, shared.team_best_id = best_id;
  }
  int turn = 0;
  possible = team_sum(team, shared, possible, turn);  // its barrier also shows the bests
  best = -INFINITY, best_id = 0x7fffffff;
  if (lane < team.size) best = *team.at(&shared.team_best, lane), best_id = *team.at(&shared.team_best_id, lane);
  warp_best(best, best_id);
  if (state.greedy || possible == 0 || possible >= kNotFinite) {
    if (team.rank == 0 && tid == 0) {
      const int32_t id = possible >= kNotFinite ? kLogitsNotFinite : possible == 0 ? kNothingToDraw : best_id;
      publish(there, row, step, advance, scratch.ring, scratch.max_draws, id);
    }
    team.sync();  // nobody leaves while others read its memory
    return;
  }

  const Scale scale{best, state.scale, state.scale_low};
  const int top_k = static_cast<uint64_t>(state.top_k) < possible ? state.top_k : 0;
  if (top_k > 0 || state.top_p < 1 || state.min_weight > 0) {
    int32_t id;
    if (draw_shortly(team, shared, slice, state, scale, top_k, turn, &id)) {
      if (team.rank == 0 && tid == 0) publish(there, row, step, advance, scratch.ring, scratch.max_draws, id);
      team.sync();
      return;
    }
  }
  const bool cut = top_k > 0 || state.top_p < 1 || state.min_weight > 0 || state.typical_p < 1;
  Left left;
  const auto by_logit = [&](float v, uint32_t* bits, uint32_t* bin) {
    *bits = ordered_bits(v);
    *bin = bin_of(best, v);
  };
  if (top_k > 0) {
    const auto one = [&](float v, int32_t) -> uint64_t { return v > -INFINITY; };
    select<true>(team, shared, slice, static_cast<uint64_t>(top_k), one, by_logit, &left.order, &left.id);
  }
  const auto weight = [&](float v, int32_t id) -> uint64_t {
    if (!(v > -INFINITY)) return 0;
    return !cut || left.holds(scale, v, id) ? scale.weight(v) : 0;
  };
  const auto mine = [&](auto value) {
    uint64_t sum = 0;
    for (int i = tid; i < slice.count; i += kThreads) sum += value(slice.at(i), slice.begin + i);
    return sum;
  };
  if (state.top_p < 1) {
    const uint64_t all = team_sum(team, shared, mine(weight), turn);
    uint32_t order;
    int32_t id;
    select<false>(team, shared, slice, share(state.top_p, all), weight, by_logit, &order, &id);
    left.order = order, left.id = id;
  }
  left.min_weight = state.min_weight;
  if (state.typical_p < 1) {
    const uint64_t all = team_sum(team, shared, mine(weight), turn);
    const auto spread = [&](float v, int32_t id) -> uint64_t {
      const uint64_t w = weight(v, id);
      return w == 0 ? 0 : moment_of(w, scale.distance(v));
    };
    const float centre = centre_of(team_sum(team, shared, mine(spread), turn), all);
    uint32_t order;
    int32_t id;
    const auto by_oddness = [&](float v, uint32_t* bits, uint32_t* bin) {
      *bits = Left::oddness(scale, v, centre);
      *bin = static_cast<uint32_t>(fminf(__uint_as_float(~*bits) * 64.f, kBins - 1.f));
    };
    select<false>(team, shared, slice, share(state.typical_p, all), weight, by_oddness, &order, &id);
    left.centre = centre, left.typical_order = order, left.typical_id = id, left.typical = true;
  }

  // A warp has a run of ids; the one that holds the random number walks through it.
  const int per_warp = (slice.count + kWarps - 1) / kWarps;
  const int first = min(slice.count, warp * per_warp), last = min(slice.count, first + per_warp);
  uint64_t run = 0;
  for (int i = first + lane; i < last; i += 32) run += weight(slice.at(i), slice.begin + i);
  const uint64_t warp_run = warp_sum64(run);
  uint64_t before = 0;
  const uint64_t all = team_sum(team, shared, run, turn, &before);
  uint64_t target = static_cast<uint64_t>(philox_uniform(state.seed, state.step) * static_cast<double>(all));
  if (target >= all) target = all - 1;
  for (int other = 0; other < warp; ++other) before += shared.warp_sums[other];
  if (before <= target && target < before + warp_run) {
    for (int i = first; i < last; i += 32) {
      const uint64_t w = i + lane < last ? weight(slice.at(i + lane), slice.begin + i + lane) : 0;
      uint64_t upto = w;
#pragma unroll
      for (int step_size = 1; step_size < 32; step_size *= 2) {
        const uint64_t other = __shfl_up_sync(~0u, upto, step_size);
        if (lane >= step_size) upto += other;
      }
      if (before + upto - w <= target && target < before + upto) {
        publish(there, row, step, advance, scratch.ring, scratch.max_draws, slice.begin + i + lane);
      }
      before += __shfl_sync(~0u, upto, 31);
    }
  }
  team.sync();
}

int slice_bytes(int64_t vocab, bool cluster) {
  const int64_t team = cluster ? kClusterSize : 1;
  return static_cast<int>(((vocab + team - 1) / team + 3) / 4 * 16);
}

// Machine code of another generation has no clusters in it, whatever the device can do.
bool has_clusters() {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, draw_rows<true>) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.ptxVersion >= 90;
}

}  // namespace

Status prepare_sampling(int shared_optin) {
  NBL_CUDA(cudaFuncSetAttribute(draw_rows<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_optin));
  NBL_CUDA(cudaFuncSetAttribute(draw_rows<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_optin));
  return {};
}

DrawPlan plan_draw(int64_t vocab, int shared_optin) {
  DrawPlan plan;
  plan.cluster = has_clusters();
  const int64_t slice = slice_bytes(vocab, plan.cluster);
  plan.copies = static_cast<int64_t>(sizeof(Shared)) + slice > shared_optin;
  plan.shared_bytes = static_cast<int>(sizeof(Shared) + (plan.copies ? 0 : slice));
  return plan;
}

Status draw_tokens(const DrawScratch& scratch, const DrawPlan& plan, const StepRows& step, int rows, bool advance, const float* logits,
                   int64_t vocab, cudaStream_t stream, RowBests bests) {
  if (plan.cluster) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(rows * kClusterSize));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
    config.stream = stream;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = kClusterSize, cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.attrs = &cluster;
    config.numAttrs = 1;
    NBL_CUDA(cudaLaunchKernelEx(&config, draw_rows<true>, scratch, step, advance, logits, static_cast<int>(vocab), bests));
  } else {
    draw_rows<false><<<rows, kThreads, plan.shared_bytes, stream>>>(scratch, step, advance, logits, static_cast<int>(vocab), bests);
    NBL_LAUNCHED("draw_rows");
  }
  return {};
}

}  // namespace nbl::cuda
