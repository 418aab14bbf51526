#include "kernels/cuda/matmul/unpacked_matmul.h"

#include <algorithm>

#include "kernels/cuda/matmul/matmul.h"

namespace nbl::cuda {

Result<std::unique_ptr<UnpackedMatmul>> UnpackedMatmul::create(const DeviceTraits& traits, std::unique_ptr<Cublas> cublas,
                                                               cudaStream_t stream, void* buffers, int64_t buffer_bytes) {
  std::unique_ptr<UnpackedMatmul> made(new UnpackedMatmul);
  made->cublas_ = std::move(cublas);
  made->traits_ = traits;
  made->stream_ = stream;
  made->buffers_ = static_cast<unsigned char*>(buffers);
  made->buffer_bytes_ = buffer_bytes;
  // Its short kernels go first wherever a multiprocessor has room.
  NBL_ASSIGN_OR_RETURN(made->unpack_stream_, Stream::create(traits.device, true));
  for (int i = 0; i < 2; ++i) {
    NBL_CUDA(cudaEventCreateWithFlags(&made->ready_[i], cudaEventDisableTiming));
    NBL_CUDA(cudaEventCreateWithFlags(&made->used_[i], cudaEventDisableTiming));
  }
  return Result<std::unique_ptr<UnpackedMatmul>>(std::move(made));
}

UnpackedMatmul::~UnpackedMatmul() {
  DeviceScope scope(traits_.device);
  if (unpack_stream_.get() != nullptr) cudaStreamSynchronize(unpack_stream_.get());
  for (int i = 0; i < 2; ++i) {
    if (ready_[i] != nullptr) cudaEventDestroy(ready_[i]);
    if (used_[i] != nullptr) cudaEventDestroy(used_[i]);
  }
}

// Of the sizes that fit, from half a buffer up, the one whose tiles fill whole rounds of the GPU best: cuBLAS
// uses tiles of 128 by 256 where there is enough to do.
int UnpackedMatmul::slice_strips(int strips, int64_t padded_k, int rows, int64_t buffer_bytes,
                                 int multiprocessors) {
  const int fit = static_cast<int>(std::max<int64_t>(1, buffer_bytes / (kStripRows * padded_k * 2)));
  if (fit >= strips || fit < 8) return std::min(fit, strips);
  const int row_tiles = (rows + 255) / 256;
  int best = fit / 8;
  double best_share = 0;
  for (int blocks = fit / 8; blocks >= std::max(1, fit / 16); --blocks) {
    const int tiles = blocks * row_tiles, rounds = (tiles + multiprocessors - 1) / multiprocessors;
    const double share = static_cast<double>(tiles) / (static_cast<double>(rounds) * multiprocessors);
    if (share > best_share + 0.01) best = blocks, best_share = share;
  }
  return best * 8;
}

Status UnpackedMatmul::multiply(const CudaWeight& weight, const void* x, int rows, void* c, bool half, int64_t c_pitch, bool add) {
  const int all = weight.tiles().strips, step = slice_strips(weight.tiles(), weight.padded_k(), rows);
  for (int strip = 0; strip < all; strip += step) {
    void* to = static_cast<unsigned char*>(c) + static_cast<int64_t>(strip) * kStripRows * (half ? 2 : 4);
    NBL_RETURN_IF_ERROR(multiply_slice(weight, strip, std::min(step, all - strip), x, rows, to, half, c_pitch, add));
  }
  return {};
}

Status UnpackedMatmul::multiply_slice(const CudaWeight& weight, int first_strip, int strips, const void* x, int rows, void* c, bool half,
                                      int64_t c_pitch, bool add) {
  const int64_t k = weight.padded_k();
  Tiles slice = weight.tiles();
  const int64_t n = std::min<int64_t>(static_cast<int64_t>(strips) * kStripRows,
                                      slice.rows - static_cast<int64_t>(first_strip) * kStripRows);
  slice.strips = strips;
  slice.data += static_cast<int64_t>(first_strip) * slice.records * slice.record_bytes;
  if (slice.row_scale != nullptr) slice.row_scale += first_strip * kStripRows;
  const int i = next_;
  next_ ^= 1;
  unsigned char* buffer = buffers_ + i * buffer_bytes_;
  NBL_CUDA(cudaStreamWaitEvent(unpack_stream_.get(), used_[i], 0));
  NBL_RETURN_IF_ERROR(unpack_tiles(slice, buffer, k, unpack_stream_.get()));
  NBL_CUDA(cudaEventRecord(ready_[i], unpack_stream_.get()));
  NBL_CUDA(cudaStreamWaitEvent(stream_, ready_[i], 0));
  NBL_RETURN_IF_ERROR(cublas_->multiply(buffer, n, x, rows, k, c, half, c_pitch, add));
  NBL_CUDA(cudaEventRecord(used_[i], stream_));
  return {};
}

}  // namespace nbl::cuda
