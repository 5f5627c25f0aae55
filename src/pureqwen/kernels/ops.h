// What PyTorch lacks on a CPU: products of a few rows that read the weights once, at the memory's speed; products of
// whole numbers for any number of rows; attention over a cache; and what stands between them. Here is what all of it rests
// on; the operations are in two files, which compile side by side, and both have Intel's units for matrices from amx.h:
//
// products.cpp
//   linear(x, w)                 y = x w'                    x (M, K), w (N, K), float32 or bfloat16
//   linear_alike(x, w)           the same, but a row has the same sums however many there are
//   quantize(x)                  q, a: x = a q               q (M, K) int8 from -127 to 127, a (M, 1), row by row
//   product_int8(q, a, w, s)     y = a s[n] sum_k q w        w (N, K) int8, s (N, 1)
//   scale_sums(t, a, s)          y = a s[n] t                t (M, N) int32, the sums of another product of bytes
//   product_int4(q, a, p, s)     y = a sum_g s[n,g] sum q w  p (N, K/8) int32: two 4-bit weights a byte, s (N, K/G)
//   multiplies_many(x)           whether bfloat16 and bytes are quick with any number of rows: by units for matrices
//
// blocks.cpp
//   rms_norm, swiglu             as in model/layers.py; with _quantize behind them as whole numbers
//   qk_norm_rope(x, w, ...)      RMSNorm over each head, then the rotation
//   store_pages, paged_attention keys and values into their slots; softmax(q k') v over them
//   attends_blocks(q)            whether the latter is quick for many queries of a row, too
//   attention, feed_forward      the two halves of a block, each in one call
//   blocks                       all blocks of a step in one call
//   route, experts               a mixture of experts: which a few rows go to; through those that any number chose
//
// Sums of int8 are exact, and those of int4 of part of a group; only scaling rounds. Each sum of floats has one fixed order
// (lane by lane, then the lanes; chunk by chunk), so a row of a result depends neither on the rows beside it nor on the
// number of threads. Three borders are left: more than 16 rows meet 4-bit weights in tiles, where larger parts of a group are
// whole before they are scaled; and of bfloat16 more than 4 meet units for matrices, if there are some, or more than 112 tiles (not
// linear_alike's); there a row differs from the one computed among few by float32's rounding. So does attention where more than 4
// tokens of a row are looked at in blocks; with AVX-512 BF16 these round their softmax to bfloat16, as PyTorch's does, and on Zen
// so do few.
//
// Vectors are the vector types of GCC and Clang, which become AVX2, AVX-512 or NEON as the machine has them. What they
// can't express, products that are rounded once with their sum, or small ones added in pairs or fours, is named where x86
// has it; processors with AVX-512's VNNI and BF16 get loops of their own around it.
// twins.py has everything in PyTorch, and the tests hold both together.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace pureqwen {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::type;

// Zen 5 reads memory otherwise than what came before. An instruction gives it away that neither those have nor Intel's servers, and
// what of Intel's has it lacks bfloat16.
#if defined(__AVX512VP2INTERSECT__) && defined(__AVX512BF16__)
#define ZEN_5
#endif

constexpr int LANES = 8;            // of a sum of floats
constexpr int CHAINS = 4;           // sums that grow side by side, so that none waits for its last addition
constexpr int64_t GRAIN = 1 << 17;  // bytes of weights below which a second thread does not pay, and
constexpr int64_t SOME = 1 << 13;   // below which it does not, if it is there already

using Floats = Vector<float, LANES>;
using Ints = Vector<int32_t, LANES>;
using Shorts = Vector<int16_t, 2 * LANES>;

template <class V>
inline V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
inline void save(void* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
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

// A float as it is after having been stored as a T.
template <class T>
inline float rounded(float value) {
  T stored;
  store(&stored, value);
  return stored;
}

inline Floats widen(const float* from) { return load<Floats>(from); }

inline Floats widen(const BFloat16* from) {
#if defined(__AVX2__)  // what GCC makes of the other is three times as long
  return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(from)), 16);
#else
  return (Floats)(__builtin_convertvector((load<Vector<uint16_t, LANES>>(from)), Vector<uint32_t, LANES>) << 16);
#endif
}

inline void store(float* to, const Floats& values) { save(to, values); }

// To the nearest bfloat16, ties to even.
template <class V>
inline V nearest(const V& values) {
  using Bits = Vector<uint32_t, sizeof(V) / 4>;
  const Bits wide = (Bits)values, near = (wide + 0x7fff + ((wide >> 16) & 1)) & 0xffff0000u;
  return (V)(values != values ? Bits{} + 0x7fc00000 : near);
}

inline void store(BFloat16* to, const Floats& values) {
  const auto bits = (Vector<uint32_t, LANES>)nearest(values) >> 16;
#if defined(__AVX2__)
  const __m128i low = _mm256_castsi256_si128((__m256i)bits), high = _mm256_extracti128_si256((__m256i)bits, 1);
  save(to, _mm_packus_epi32(low, high));
#else
  save(to, __builtin_convertvector(bits, Vector<uint16_t, LANES>));
#endif
}

// Floats as they are after having been stored as T.
template <class T>
inline Floats rounded(const Floats& values) {
  if constexpr (std::is_same_v<T, float>) return values;
  return nearest(values);
}

// What is done number by number takes the widest vectors that there are.
#if defined(__AVX512F__)
constexpr int WIDE = 16;
using Wide = Vector<float, WIDE>;

inline Wide wide(const float* from) { return load<Wide>(from); }

inline Wide wide(const BFloat16* from) { return (Wide)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(from)), 16); }

#if defined(__AVX512BF16__)
// By the processor: it takes what is smaller than any normal number for 0, which what has fewer lanes keeps.
inline Wide nearest(const Wide& values) {
  return (Wide)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)values)), 16);
}

inline void store(BFloat16* to, const Wide& values) { save(to, _mm512_cvtneps_pbh((__m512)values)); }
#else
inline void store(BFloat16* to, const Wide& values) { save(to, _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)nearest(values), 16))); }
#endif

inline void store(float* to, const Wide& values) { save(to, values); }

template <class T>
inline Wide rounded(const Wide& values) {
  if constexpr (std::is_same_v<T, float>) return values;
  return nearest(values);
}
#else
constexpr int WIDE = LANES;
using Wide = Floats;

template <class T>
inline Wide wide(const T* from) {
  return widen(from);
}
#endif

inline Shorts widen(const int8_t* from) {
#if defined(__AVX2__)
  return (Shorts)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  return __builtin_convertvector((load<Vector<int8_t, 2 * LANES>>(from)), Shorts);
#endif
}

// Keeps a vector in its register: compilers would rather load it again for each use, and loading is then the limit.
template <class V>
inline void pin([[maybe_unused]] V& v) {
#if defined(__AVX2__)
  asm("" : "+v"(v));
#endif
}

template <class V>
inline V pinned(V v) {
  pin(v);
  return v;
}

// Calls f with 0 to N - 1, each of a type of its own: what it fills by these numbers stays in registers.
template <int N, class F>
__attribute__((always_inline)) inline void each(const F& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) { (f(std::integral_constant<int, I>{}), ...); }
  (std::make_integer_sequence<int, N>{});
}

template <class H, class V>
inline H half(const V& v, int which) {  // the lower (0) or the upper (1)
  return load<H>(reinterpret_cast<const char*>(&v) + which * sizeof(H));
}

// total + a b, with x86's FMA rounded once. Written as `total + a * b`, compilers for it fuse one such sum and not its neighbour, and
// which of the two a row gets would depend on what is beside it.
template <class V>
inline V plus_product(V total, V a, V b) {
#if defined(__FMA__)
  if constexpr (sizeof(V) == 16) return (V)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)total);
  if constexpr (sizeof(V) == 32) return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)total);
#endif
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)total);
#endif
  return total + a * b;
}

#if defined(__AVX512BF16__)
// Adds products of bfloat16, two to each lane of float32. (As an intrinsic it makes compilers move sums out of their registers.)
inline __m512 plus_pairs(__m512 total, __m512i a, __m512i b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(total) : "v"(a), "vm"(b));
  return total;
}
#endif

template <class V>
inline V in_all_lanes(float x) {
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) return (V)_mm256_set1_ps(x);
#endif
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return (V)_mm512_set1_ps(x);
#endif
  return V{} + x;
}

template <class V>
inline auto sum(const V& v) {  // the lanes, always in this order
  auto total = v[0];
  for (size_t i = 1; i < sizeof(V) / sizeof(total); ++i) total += v[i];
  return total;
}

// The same in halves, which is less to do.
template <class V>
inline float sum_in_halves(V v) {
  pin(v);  // a vector whose halves are looked at lies in memory, and so would a sum, while it grows
  if constexpr (sizeof(V) == 16)
    return (v[0] + v[1]) + (v[2] + v[3]);
  else
    return sum_in_halves(half<Vector<float, sizeof(V) / 8>>(v, 0) + half<Vector<float, sizeof(V) / 8>>(v, 1));
}

template <class V>
inline int32_t largest_of(V v) {
  pin(v);
  using Half = Vector<int32_t, sizeof(V) / 8>;
  if constexpr (sizeof(V) == 16) return std::max(std::max(v[0], v[1]), std::max(v[2], v[3]));
  else {
    const Half a = half<Half>(v, 0), b = half<Half>(v, 1);
    return largest_of(a > b ? a : b);
  }
}

inline int32_t sum(const Ints& v) {
  const auto four = half<Vector<int32_t, 4>>(v, 0) + half<Vector<int32_t, 4>>(v, 1);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

// e^x, to about two units in the last place: 2^n e^r with n whole and |r| < ln 2 / 2, e^r by its Taylor series.
template <class V>
inline V exp(V x) {
  using N = Vector<int32_t, sizeof(V) / 4>;
  const V least = V{} - 87.0f, most = V{} + 88.0f;
  const V low = x < least ? least : x, bound = low > most ? most : low;
  const N n = __builtin_convertvector((bound * 1.44269504f + 12582912.0f) - 12582912.0f, N);
  const V wide = __builtin_convertvector(n, V);
  const V r = (bound - wide * 0.693359375f) + wide * 2.12194440e-4f;
  V series = r * (1 / 5040.0f) + 1 / 720.0f;
  for (const float c : {1 / 120.0f, 1 / 24.0f, 1 / 6.0f, 0.5f, 1.0f, 1.0f}) series = series * r + c;
  return series * (V)((n + 127) << 23);
}

#if defined(__AVX2__)
// 8 x 8 numbers of 32 bits turned around.
inline void transpose(__m256i* r) {
  __m256i two[8], four[8];
  for (int i = 0; i < 8; i += 2) two[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]), two[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      four[i + 2 * j] = _mm256_unpacklo_epi64(two[i + j], two[i + j + 2]);
      four[i + 2 * j + 1] = _mm256_unpackhi_epi64(two[i + j], two[i + j + 2]);
    }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x20);
    r[i + 4] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x31);
  }
}
#endif

#if defined(__AVX512F__)
// 16 x 16 numbers of 32 bits turned around.
inline void transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 2; ++j) {
      t[i + 8 * j] = _mm512_shuffle_i32x4(r[8 * j + i], r[8 * j + i + 4], 0x88);
      t[i + 8 * j + 4] = _mm512_shuffle_i32x4(r[8 * j + i], r[8 * j + i + 4], 0xdd);
    }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}
#endif

// Memory of one thread and one use that is not asked for anew at each call, from a multiple of 64 bytes on: a vector that lies across
// two lines is written, and read again, far slower.
struct ForRow;

template <class Use, class T>
T* kept(int64_t count) {
  constexpr int64_t LINE = 64;
  static thread_local std::vector<T> memory;
  const int64_t needed = count + LINE / int64_t(sizeof(T));
  if (int64_t(memory.size()) < needed) memory = std::vector<T>(), memory.resize(needed);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + LINE - 1) / LINE * LINE);
}

// ---- threads -----------------------------------------------------------------------------------------------------
//
// An operation shares its rows among PyTorch's threads, which takes some microseconds to begin and to end: as long as many a
// small operation runs. So where several are one call, a Team of threads begins once, and each thread runs all of the call:
// of what goes `over_rows` it takes the next share as long as there is one, what stands between it does for itself, and where
// it needs what others did it `meet`s them. A share is as large as can be, for memory is read best in its order.

// Some function that stays its caller's, by address: who calls it is compiled once, and not for each.
template <class... A>
class Function {
 public:
  template <class F>
  Function(const F& f) : f_(&f), call_([](const void* g, A... a) { (*static_cast<const F*>(g))(a...); }) {}
  void operator()(A... a) const { call_(f_, a...); }

 private:
  const void* f_;
  void (*call_)(const void*, A...);
};

using Work = Function<int64_t, int64_t>;  // of the numbers from begin to end

class Team {
 public:
  // most: how often a call goes over rows. bytes: what the largest of it reads.
  Team(int64_t most, int64_t bytes)
      : num_threads_(std::clamp<int64_t>(bytes / GRAIN, 1, torch::stable::get_num_threads())), parts_(most) {}

  template <class Step>
  void run(const Step& step) {
    begin([&](int64_t, int64_t) { step(); });
  }

  void share(int64_t num, int64_t least, const Work& work) {
    Part& part = parts_[turn++];
    const int64_t size = std::max(least, (num + num_threads_ - 1) / num_threads_);
    part.num = num;
    for (int64_t begin; (begin = part.next.fetch_add(size, std::memory_order_relaxed)) < num;) {
      const int64_t end = std::min(begin + size, num);
      work(begin, end);
      part.done.fetch_add(end - begin, std::memory_order_release);
    }
  }

  // Until all that went over rows so far is done, whoever does it. A thread that comes late finds it done.
  void meet() {
    for (; met < turn; ++met)
      for (int64_t tries = 0; parts_[met].done.load(std::memory_order_acquire) < parts_[met].num; ++tries) pause(tries);
  }

  static inline thread_local Team* mine = nullptr;  // of the thread that asks, or none

 private:
  void begin(const Work& step) {
    torch::stable::parallel_for(0, num_threads_, 1, [&](int64_t, int64_t) {
      mine = this, turn = met = 0;
      step(0, 1);
      meet();
      mine = nullptr;
    });
  }

  struct alignas(64) Part {
    std::atomic<int64_t> next = 0, done = 0, num = 0;
  };

  static void pause(int64_t tries) {
    if (tries > 1 << 10) return std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  int64_t num_threads_;
  std::vector<Part> parts_;
  static inline thread_local size_t turn = 0, met = 0;
};

inline void over_rows(int64_t num_rows, int64_t bytes_a_row, const Work& work) {
  const int64_t bytes = std::max<int64_t>(1, bytes_a_row);
  if (Team* team = Team::mine) return team->share(num_rows, std::max<int64_t>(1, SOME / bytes), work);
  torch::stable::parallel_for(0, num_rows, std::max<int64_t>(1, GRAIN / bytes), work);
}

// As over_rows, but what is written is one's own: in a team each does all of it.
inline void over_own_rows(int64_t num_rows, int64_t bytes_a_row, const Work& work) {
  Team::mine ? work(0, num_rows) : over_rows(num_rows, bytes_a_row, work);
}

inline void meet() {
  if (Team::mine) Team::mine->meet();
}

// ---- shapes ------------------------------------------------------------------------------------------------------

inline void require(bool holds, const char* what) { STD_TORCH_CHECK(holds, "pureqwen kernels: ", what); }

// The same code for each dtype: calls f with a null pointer of the C++ type.
template <class F>
auto with_type(ScalarType type, const F& f) {
  if (type == ScalarType::Float) return f((float*)nullptr);
  require(type == ScalarType::BFloat16, "float32 or bfloat16 is expected");
  return f((BFloat16*)nullptr);
}

template <class F>
auto with_type(const Tensor& t, const F& f) {
  return with_type(t.scalar_type(), f);
}

template <class P>
using Pointed = std::remove_pointer_t<P>;

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

inline bool alike(const Tensor& a, const Tensor& b) { return a.scalar_type() == b.scalar_type(); }

inline Tensor output(const Tensor& x, int64_t num_rows, int64_t width) {
  return torch::stable::new_empty(x, {num_rows, width});
}

// ---- rows as whole numbers ---------------------------------------------------------------------------------------

// x = q * scale, scale = the largest |x| of the row / 127. Returns the scale.
inline float quantize_row(const float* x, int64_t K, int8_t* q) {
  using Bits = Vector<int32_t, WIDE>;
  constexpr int32_t INFINITE = 0x7f800000, SIZE = 0x7fffffff;  // as bits sizes have the same order, and what is no number comes last
  Bits most = {};
  int64_t k = 0;
  for (; k + WIDE <= K; k += WIDE) {
    const Bits size = load<Bits>(x + k) & SIZE;
    most = size > most ? size : most;
  }
  int32_t bits = largest_of(most);
  for (; k < K; ++k) bits = std::max(bits, load<int32_t>(x + k) & SIZE);
  if (bits >= INFINITE) {
    std::memset(q, 0, K);
    return NAN;  // what is no number makes none
  }
  const float largest = load<float>(&bits);
  const float scale = largest >= 127 * std::numeric_limits<float>::min() ? largest / 127 : 1;  // a smaller one would lose its bits
  k = 0;
#if defined(__AVX512F__)
  for (; k + WIDE <= K; k += WIDE)
    save(q + k, pinned(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)(load<Wide>(x + k) / scale)))));  // to the nearest, ties to even
#endif
  for (; k < K; ++k) q[k] = int8_t((x[k] / scale + 12582912.0f) - 12582912.0f);  // the same
  return scale;
}

// M rows of K numbers, as products read them: either x, or whole numbers q with a scale for each row.
template <class T>
struct Rows {
  int64_t M, K;
  T* x = nullptr;
  int8_t* q = nullptr;
  float* a = nullptr;
};

// Writes the rows that `row(m, floats)` makes.
template <class T, class Row>
void write(const Rows<T>& to, const Row& row) {
  over_rows(to.M, to.K * 16, [&](int64_t begin, int64_t end) {
    float* numbers = kept<ForRow, float>(to.K);
    for (int64_t m = begin; m < end; ++m) {
      row(m, numbers);
      if (to.q) {
        to.a[m] = quantize_row(numbers, to.K, to.q + m * to.K);
        continue;
      }
      T* y = to.x + m * to.K;
      int64_t k = 0;
      for (; k + WIDE <= to.K; k += WIDE) store(y + k, load<Wide>(numbers + k));
      for (; k < to.K; ++k) store(y + k, numbers[k]);
    }
  });
}

// The same as tensors; `row_of` makes such a `row` of a null pointer of the C++ type.
template <class RowOf>
Tensor as_they_are(const Tensor& like, int64_t M, int64_t K, const RowOf& row_of) {
  Tensor y = output(like, M, K);
  with_type(like, [&](auto* X) { write(Rows<Pointed<decltype(X)>>{M, K, data<Pointed<decltype(X)>>(y)}, row_of(X)); });
  return y;
}

template <class RowOf>
std::tuple<Tensor, Tensor> quantized(const Tensor& like, int64_t M, int64_t K, const RowOf& row_of) {
  Tensor q = torch::stable::new_empty(like, {M, K}, ScalarType::Char);
  Tensor a = torch::stable::new_empty(like, {M, 1}, ScalarType::Float);
  with_type(like, [&](auto* X) { write(Rows<Pointed<decltype(X)>>{M, K, nullptr, data<int8_t>(q), data<float>(a)}, row_of(X)); });
  return {q, a};
}

template <class T>
auto copied(const T* x, int64_t K) {
  return [=](int64_t m, float* to) {
    const T* from = x + m * K;
    int64_t k = 0;
    for (; k + WIDE <= K; k += WIDE) save(to + k, wide(from + k));
    for (; k < K; ++k) to[k] = from[k];
  };
}

// ---- matrices -----------------------------------------------------------------------------------------------------

struct Matrix {  // (N, K): of floats, or of whole numbers with scales
  ScalarType type, scale_type;
  const void *w, *scales;
  int64_t N, K, size;  // `size` 4-bit weights have a scale together
  bool whole() const { return scales != nullptr; }
  int64_t bytes() const { return N * K * (type == ScalarType::Float ? 4 : type == ScalarType::BFloat16 ? 2 : 1) / (size ? 2 : 1); }
};

Matrix matrix(const Tensor& w);
Matrix matrix(const Tensor& w, const Tensor& scales);

// y (M, N) = rows times the matrix.
template <class T>
void multiply(const Rows<T>& rows, const Matrix& m, T* y);

}  // namespace pureqwen
