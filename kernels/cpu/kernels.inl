// Everything an instruction set's file is made of, once its vectors (vec_*.inl) and the products of one token
// (one_token*.inl) are there.
// clang-format off: each builds on the ones before it
#include "kernels/cpu/linear_float.inl"
#include "kernels/cpu/linear.inl"
#include "kernels/cpu/rows.inl"
#include "kernels/cpu/attention.inl"
// clang-format on

#define NBL_KERNELS(name, codebook_integers)                                                          \
  {                                                                                                   \
    name, codebook_integers, linear, quantize, rms_norm, silu_mul, gelu_tanh_mul, attend, next_above, \
        to_f16, from_f16                                                                              \
  }
