// What PyTorch lacks on a CPU: products of a few rows that read the weights once, at the memory's speed.
//
//   linear(x, w)                 y = x w'                    x (M, K), w (N, K), float32 or bfloat16
//   linear_int8(x, w, s)         y = a s[n] sum_k q w        w (N, K) int8, s (N, 1)
//   linear_int4(x, p, s)         y = a sum_g s[n,g] sum q w  p (N, K/8) int32: two 4-bit weights a byte, s (N, K/G)
//
// q is x in whole numbers from -127 to 127, made here, with one scale a for each row of x. So the sums of int8 are
// exact, and those of int4 within a group; only scaling rounds.
//
// A weight row is read from memory, multiplied with all M rows of x while it lies in the first-level cache, and left
// behind. Threads share the N weight rows. Each sum has one fixed order (lane by lane, then the lanes), so a row of y
// depends neither on the rows beside it nor on the number of threads.
//
// There is no intrinsic in here: vectors are the vector types of GCC and Clang, which become AVX2, AVX-512 or NEON as
// the machine has them. twins.py has the same in PyTorch, and the tests hold both together.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::type;

constexpr int LANES = 8;            // of a sum of floats
constexpr int CHAINS = 4;           // sums that grow side by side, so that none waits for its last addition
constexpr int64_t GRAIN = 1 << 17;  // bytes of weights below which a second thread does not pay

using Floats = Vector<float, LANES>;

template <class V>
inline V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// ---- numbers as they are stored ----------------------------------------------------------------------------------

struct BFloat16 {
  uint16_t bits;
  operator float() const {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
};

inline void store(float* to, float value) { *to = value; }

inline void store(BFloat16* to, float value) {  // to the nearest, ties to even
  uint32_t wide;
  std::memcpy(&wide, &value, 4);
  to->bits = value != value ? 0x7fc0 : uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

inline Floats widen(const float* from) { return load<Floats>(from); }

inline Floats widen(const BFloat16* from) {
  const auto bits = __builtin_convertvector((load<Vector<uint16_t, LANES>>(from)), Vector<uint32_t, LANES>) << 16;
  return (Floats)bits;
}

template <class V>
inline float sum(const V& v) {  // the lanes, always in this order
  float total = 0;
  for (size_t i = 0; i < sizeof(V) / sizeof(float); ++i) total += v[i];
  return total;
}

// ---- shapes ------------------------------------------------------------------------------------------------------

struct Shape {
  int64_t M, N, K;
};

void require(bool holds, const char* what) { STD_TORCH_CHECK(holds, "pureqwen kernels: ", what); }

template <class Work>
void over_rows(int64_t num_rows, int64_t bytes_a_row, const Work& work) {
  torch::stable::parallel_for(0, num_rows, std::max<int64_t>(1, GRAIN / bytes_a_row), work);
}

// The same code for each dtype: calls f with a null pointer of the C++ type.
template <class F>
void with_type(const Tensor& t, const F& f) {
  if (t.scalar_type() == ScalarType::Float) return f((float*)nullptr);
  require(t.scalar_type() == ScalarType::BFloat16, "float32 or bfloat16 is expected");
  f((BFloat16*)nullptr);
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

Tensor output(const Tensor& x, int64_t num_rows, int64_t width) {
  return torch::stable::new_empty(x, {num_rows, width});
}

// ---- float weights -----------------------------------------------------------------------------------------------

// R rows of x (float32, K numbers each) with one weight row: R sums.
template <int R, class W>
inline void dot(const float* x, const W* w, int64_t K, float* out) {
  Floats total[R][CHAINS] = {};
  for (int64_t k = 0; k < K; k += CHAINS * LANES)
    for (int c = 0; c < CHAINS; ++c) {
      const Floats weights = widen(w + k + c * LANES);
      for (int r = 0; r < R; ++r) total[r][c] += weights * load<Floats>(x + r * K + k + c * LANES);
    }
  for (int r = 0; r < R; ++r) out[r] = sum((total[r][0] + total[r][1]) + (total[r][2] + total[r][3]));
}

template <class T>
std::vector<float> as_floats(const T* x, int64_t count) {
  return std::vector<float>(x, x + count);
}

template <class X, class W>
void linear_rows(const X* x, const W* w, X* y, Shape s) {
  const std::vector<float> wide = as_floats(x, s.M * s.K);
  over_rows(s.N, s.K * sizeof(W), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const W* row = w + n * s.K;
      float out[2];
      for (int64_t m = 0; m < s.M; m += 2) {
        const bool pair = m + 1 < s.M;
        pair ? dot<2>(&wide[m * s.K], row, s.K, out) : dot<1>(&wide[m * s.K], row, s.K, out);
        store(y + m * s.N + n, out[0]);
        if (pair) store(y + (m + 1) * s.N + n, out[1]);
      }
    }
  });
}

Tensor linear(const Tensor& x, const Tensor& w) {
  const Shape s{x.size(0), w.size(0), x.size(1)};
  require(x.is_contiguous() && w.is_contiguous() && w.size(1) == s.K && s.K % (CHAINS * LANES) == 0, "linear: bad shapes");
  Tensor y = output(x, s.M, s.N);
  with_type(x, [&](auto* X) {
    using TX = std::remove_pointer_t<decltype(X)>;
    with_type(w, [&](auto* W) {
      using TW = std::remove_pointer_t<decltype(W)>;
      linear_rows(data<TX>(x), data<TW>(w), data<TX>(y), s);
    });
  });
  return y;
}

// ---- whole numbers -----------------------------------------------------------------------------------------------

struct Quantized {
  std::vector<int16_t> q;     // (M, K), from -127 to 127: int16, in which processors multiply and add pairs
  std::vector<float> scales;  // (M,)
};

// x = q * scale, scale = the largest |x| of the row / 127.
template <class X>
Quantized quantize(const X* x, int64_t M, int64_t K) {
  Quantized found{std::vector<int16_t>(M * K), std::vector<float>(M)};
  for (int64_t m = 0; m < M; ++m) {
    float most = 0;
    bool finite = true;
    for (int64_t k = 0; k < K; ++k) {
      const float size = std::fabs(float(x[m * K + k]));
      finite &= size <= 3.402823466e38f;
      most = std::max(most, size);
    }
    const float scale = !finite ? NAN : most > 0 ? most / 127 : 1;  // what is no number makes none
    if (finite)
      for (int64_t k = 0; k < K; ++k) found.q[m * K + k] = int16_t(std::nearbyintf(float(x[m * K + k]) / scale));
    found.scales[m] = scale;
  }
  return found;
}

inline int32_t dot(const int8_t* w, const int16_t* q, int64_t K) {
  int32_t total = 0;  // at most 128 * 127 K: exact up to K = 132,000
  for (int64_t k = 0; k < K; ++k) total += int32_t(int16_t(w[k])) * int32_t(q[k]);
  return total;
}

template <class X, class S>
void int8_rows(const X* x, const int8_t* w, const S* scales, X* y, Shape s) {
  const Quantized a = quantize(x, s.M, s.K);
  over_rows(s.N, s.K, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t m = 0; m < s.M; ++m)
        store(y + m * s.N + n, float(dot(w + n * s.K, &a.q[m * s.K], s.K)) * a.scales[m] * float(scales[n]));
  });
}

Tensor linear_int8(const Tensor& x, const Tensor& w, const Tensor& scales) {
  const Shape s{x.size(0), w.size(0), x.size(1)};
  require(x.is_contiguous() && w.is_contiguous() && scales.is_contiguous(), "linear_int8: not contiguous");
  require(w.scalar_type() == ScalarType::Char && w.size(1) == s.K && scales.numel() == s.N, "linear_int8: bad shapes");
  Tensor y = output(x, s.M, s.N);
  with_type(x, [&](auto* X) {
    using TX = std::remove_pointer_t<decltype(X)>;
    with_type(scales, [&](auto* S) {
      using TS = std::remove_pointer_t<decltype(S)>;
      int8_rows(data<TX>(x), data<int8_t>(w), data<TS>(scales), data<TX>(y), s);
    });
  });
  return y;
}

// ---- 4-bit weights in groups -------------------------------------------------------------------------------------

constexpr int PAIRS = 16;  // bytes, so 32 weights, that are looked at together; a group has a multiple of them
using Shorts = Vector<int16_t, PAIRS>;
using Sums = Vector<float, PAIRS / 2>;

// A byte holds weights 2k (low half) and 2k+1 (high half), each + 8. The even and the odd numbers of a row of q lie apart,
// so that the halves need no sorting. In 16 bits a lane holds 2 * 8 * 127 a step: the 8 steps of 256 weights fit.
template <int R>
inline void add_group(const uint8_t* p, const int16_t* q, int64_t K, int64_t num_pairs, float scale, Sums* out) {
  Shorts total[R] = {};
  for (int64_t k = 0; k < num_pairs; k += PAIRS) {
    const Shorts both = __builtin_convertvector((load<Vector<uint8_t, PAIRS>>(p + k)), Shorts);
    const Shorts low = (both & 15) - 8, high = (both >> 4) - 8;
    for (int r = 0; r < R; ++r)
      total[r] += low * load<Shorts>(q + r * K + k) + high * load<Shorts>(q + r * K + K / 2 + k);
  }
  for (int r = 0; r < R; ++r) {
    const auto first = load<Vector<int16_t, PAIRS / 2>>(&total[r]);
    const auto second = load<Vector<int16_t, PAIRS / 2>>(reinterpret_cast<const int16_t*>(&total[r]) + PAIRS / 2);
    out[r] += (__builtin_convertvector(first, Sums) + __builtin_convertvector(second, Sums)) * scale;
  }
}

template <int R, class X, class S>
void int4_row(const Quantized& a, int64_t m, const uint8_t* p, const S* scales, X* y, Shape s, int64_t group) {
  Sums total[R] = {};
  for (int64_t g = 0; g < s.K / group; ++g)
    add_group<R>(p + g * group / 2, &a.q[m * s.K + g * group / 2], s.K, group / 2, float(scales[g]), total);
  for (int r = 0; r < R; ++r) store(y + (m + r) * s.N, sum(total[r]) * a.scales[m + r]);
}

// Each row of q as its even numbers, then its odd ones.
void part(std::vector<int16_t>& q, int64_t M, int64_t K) {
  std::vector<int16_t> row(K);
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t k = 0; k < K; ++k) row[(k & 1) * (K / 2) + k / 2] = q[m * K + k];
    std::copy(row.begin(), row.end(), q.begin() + m * K);
  }
}

template <class X, class S>
void int4_rows(const X* x, const uint8_t* p, const S* scales, X* y, Shape s, int64_t group) {
  Quantized a = quantize(x, s.M, s.K);
  part(a.q, s.M, s.K);
  over_rows(s.N, s.K / 2, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const uint8_t* row = p + n * s.K / 2;
      const S* row_scales = scales + n * (s.K / group);
      int64_t m = 0;
      for (; m + 4 <= s.M; m += 4) int4_row<4>(a, m, row, row_scales, y + n, s, group);
      for (; m < s.M; ++m) int4_row<1>(a, m, row, row_scales, y + n, s, group);
    }
  });
}

Tensor linear_int4(const Tensor& x, const Tensor& p, const Tensor& scales) {
  const Shape s{x.size(0), p.size(0), x.size(1)};
  require(x.is_contiguous() && p.is_contiguous() && scales.is_contiguous(), "linear_int4: not contiguous");
  require(p.scalar_type() == ScalarType::Int && 8 * p.size(1) == s.K && scales.size(0) == s.N, "linear_int4: bad shapes");
  const int64_t group = s.K / scales.size(1);
  require(group * scales.size(1) == s.K && group % (2 * PAIRS) == 0 && group <= 256, "linear_int4: bad groups");
  Tensor y = output(x, s.M, s.N);
  with_type(x, [&](auto* X) {
    using TX = std::remove_pointer_t<decltype(X)>;
    with_type(scales, [&](auto* S) {
      using TS = std::remove_pointer_t<decltype(S)>;
      int4_rows(data<TX>(x), data<uint8_t>(p), data<TS>(scales), data<TX>(y), s, group);
    });
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY(pureqwen, m) {
  m.def("linear(Tensor x, Tensor weight) -> Tensor");
  m.def("linear_int8(Tensor x, Tensor weight, Tensor scale) -> Tensor");
  m.def("linear_int4(Tensor x, Tensor packed, Tensor scale) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pureqwen, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_int8", TORCH_BOX(&linear_int8));
  m.impl("linear_int4", TORCH_BOX(&linear_int4));
}
