// What PyTorch lacks on a CPU: products of a few rows that read the weights once, at the memory's speed; products of
// whole numbers for any number of rows; attention over a cache; and what stands between them.
//
//   linear(x, w)                 y = x w'                    x (M, K), w (N, K), float32 or bfloat16
//   quantize(x)                  q, a: x = a q               q (M, K) int8 from -127 to 127, a (M, 1), row by row
//   product_int8(q, a, w, s)     y = a s[n] sum_k q w        w (N, K) int8, s (N, 1)
//   scale_sums(t, a, s)          y = a s[n] t                t (M, N) int32, the sums of another product of bytes
//   product_int4(q, a, p, s)     y = a sum_g s[n,g] sum q w  p (N, K/8) int32: two 4-bit weights a byte, s (N, K/G)
//   rms_norm, swiglu             as in model/layers.py; with _quantize behind them as whole numbers
//   qk_norm_rope(x, w, ...)      RMSNorm over each head, then the rotation
//   store_pages, paged_attention keys and values into their slots; softmax(q k') v over them
//   attends_blocks(q)            whether the latter is quick for many queries of a row, too
//   attention, feed_forward      the two halves of a block, each in one call
//   blocks                       all blocks of a step in one call
//   route, experts               a mixture of experts, where each gets few rows: which, and through them
//
// Sums of int8 are exact, and those of int4 of part of a group; only scaling rounds. Each sum of floats has one fixed order
// (lane by lane, then the lanes; chunk by chunk), so a row of a result depends neither on the rows beside it nor on the
// number of threads. Two borders are left: more than 16 rows meet 4-bit weights in tiles, where larger parts of a group are
// whole before they are scaled; there a row differs from the one computed among few by float32's rounding. So does attention where
// more than 4 tokens of a row are looked at in blocks; with AVX-512 these round their softmax to bfloat16, as PyTorch's does.
//
// Vectors are the vector types of GCC and Clang, which become AVX2, AVX-512 or NEON as the machine has them. What they
// can't express, products that are rounded once with their sum, or small ones added in pairs or fours, is named where x86
// has it; processors with AVX-512's VNNI and BF16 get loops of their own around it.
// twins.py has everything in PyTorch, and the tests hold both together.

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

  static thread_local Team* mine;  // of the thread that asks, or none

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
  static thread_local size_t turn, met;
};

thread_local Team* Team::mine = nullptr;
thread_local size_t Team::turn, Team::met;

void over_rows(int64_t num_rows, int64_t bytes_a_row, const Work& work) {
  const int64_t bytes = std::max<int64_t>(1, bytes_a_row);
  if (Team* team = Team::mine) return team->share(num_rows, std::max<int64_t>(1, SOME / bytes), work);
  torch::stable::parallel_for(0, num_rows, std::max<int64_t>(1, GRAIN / bytes), work);
}

// As over_rows, but what is written is one's own: in a team each does all of it.
void over_own_rows(int64_t num_rows, int64_t bytes_a_row, const Work& work) {
  Team::mine ? work(0, num_rows) : over_rows(num_rows, bytes_a_row, work);
}

void meet() {
  if (Team::mine) Team::mine->meet();
}

// ---- shapes ------------------------------------------------------------------------------------------------------

struct Shape {
  int64_t M, N, K;
};

void require(bool holds, const char* what) { STD_TORCH_CHECK(holds, "pureqwen kernels: ", what); }

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

// Calls f(R, m) for pieces of M rows, R of them from m on: eight, and at the end four, two or one.
template <class F>
void in_eights(int64_t M, const F& f) {
  int64_t m = 0;
  for (; m + 8 <= M; m += 8) f(std::integral_constant<int, 8>{}, m);
  if (m + 4 <= M) f(std::integral_constant<int, 4>{}, m), m += 4;
  if (m + 2 <= M) f(std::integral_constant<int, 2>{}, m), m += 2;
  if (m < M) f(std::integral_constant<int, 1>{}, m);
}

template <class P>
using Pointed = std::remove_pointer_t<P>;

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

bool alike(const Tensor& a, const Tensor& b) { return a.scalar_type() == b.scalar_type(); }

Tensor output(const Tensor& x, int64_t num_rows, int64_t width) {
  return torch::stable::new_empty(x, {num_rows, width});
}

// Where the scales of weight rows are, and where results (M, N) go: of either type, which a line of them asks for. With a
// version of each product for each pair of types this file took a third longer to compile.
struct Scales {
  ScalarType type;
  const void* s;

  bool are_floats() const { return type == ScalarType::Float; }
  const float* whole() const { return static_cast<const float*>(s); }
  const BFloat16* halves() const { return static_cast<const BFloat16*>(s); }

  float one(int64_t i) const { return are_floats() ? whole()[i] : float(halves()[i]); }
  Floats some(int64_t i) const { return are_floats() ? widen(whole() + i) : widen(halves() + i); }
  void ask(int64_t i) const { __builtin_prefetch(are_floats() ? static_cast<const void*>(whole() + i) : halves() + i); }

  // `count` of them from `first` on, in memory of the caller's if they aren't floats as they are; those so far ahead are asked for.
  const float* floats(int64_t first, int64_t count, float* memory, int64_t ahead = 0) const {
    if (are_floats()) return whole() + first;
    if (ahead) ask(first + ahead);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) save(memory + i, widen(halves() + first + i));
    for (; i < count; ++i) memory[i] = halves()[first + i];
    return memory;
  }
};

struct Results {
  ScalarType type;
  void* y;
  int64_t N;

  // Asks for the lines in which results of R rows begin, from row m and n on, to write them.
  template <int R>
  void ask(int64_t m, int64_t n) const {
    const int64_t size = type == ScalarType::Float ? 4 : 2;
    const char* first = static_cast<const char*>(y) + (m * N + n) * size;
    each<R>([&](auto r) { __builtin_prefetch(first + r * N * size, 1); });
  }
};

template <class T>
constexpr ScalarType TYPE = std::is_same_v<T, float> ? ScalarType::Float : ScalarType::BFloat16;

// `count` sums, times a.
template <class Y>
inline void put(const float* sums, int64_t count, float a, Y* y) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(y + i, load<Floats>(sums + i) * a);
  for (; i < count; ++i) store(y + i, sums[i] * a);
}

// The same of whole numbers, each with `offset`, times a and scales.
template <class S, class Y>
inline void put(const int32_t* sums, int32_t offset, int64_t count, float a, const S* s, Y* y) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    store(y + i, __builtin_convertvector(load<Ints>(sums + i) + offset, Floats) * a * widen(s + i));
  for (; i < count; ++i) store(y + i, float(sums[i] + offset) * a * float(s[i]));
}

// `count` sums of each of R rows, `stride` apart, times a (R): to row m and those behind it, from n on.
__attribute__((noinline)) void put_rows(const float* sums, int64_t stride, int64_t R, int64_t count, const float* a, Results to,
                                        int64_t m, int64_t n) {
  with_type(to.type, [&](auto* Y) {
    auto* y = static_cast<Pointed<decltype(Y)>*>(to.y) + m * to.N + n;
    for (int64_t r = 0; r < R; ++r) put(sums + r * stride, count, a[r], y + r * to.N);
  });
}

// The same of whole numbers, times a and scales.
[[maybe_unused]] __attribute__((noinline)) void put_rows(const int32_t* sums, int64_t stride, int64_t R, int64_t count, const float* a,
                                                         const float* s, Results to, int64_t m, int64_t n) {
  with_type(to.type, [&](auto* Y) {
    auto* y = static_cast<Pointed<decltype(Y)>*>(to.y) + m * to.N + n;
    for (int64_t r = 0; r < R; ++r) put(sums + r * stride, 0, count, a[r], s, y + r * to.N);
  });
}

inline void put(const float* sums, int64_t count, float a, Results to, int64_t m, int64_t n) { put_rows(sums, 0, 1, count, &a, to, m, n); }

// One row of whole numbers, each with `offset`, and scales of either type, from n on.
__attribute__((noinline)) void put(const int32_t* sums, int32_t offset, int64_t count, float a, Scales scales, Results to, int64_t m,
                                   int64_t n) {
  with_type(scales.type, [&](auto* S) {
    const auto* s = static_cast<const Pointed<decltype(S)>*>(scales.s) + n;
    with_type(to.type, [&](auto* Y) { put(sums, offset, count, a, s, static_cast<Pointed<decltype(Y)>*>(to.y) + m * to.N + n); });
  });
}

constexpr int BLOCK_N = 4;     // weight rows, and with AVX-512
constexpr int BLOCK_ROWS = 6;  // rows of x, that are multiplied together: their sums fill the registers
constexpr int LINE = 64;       // bytes that are multiplied at a time
constexpr int COLUMNS = 64;    // results of a row that are computed together
constexpr int SHARED = 16;     // weight rows, at least, that a thread takes
// Bytes ahead that are asked for, of each of SIDE weight rows that are read side by side.
#if defined(__AVX512F__)
template <int SIDE>
constexpr int64_t AHEAD = 3072 / SIDE;
#else
template <int SIDE>
constexpr int64_t AHEAD = SIDE == BLOCK_N ? 384 : 3072 / SIDE;
#endif
constexpr int64_t FAR = 8192;           // the same, about, of neighbours that many rows meet: a whole number of fours
constexpr int64_t FEW_PLACED = 4;       // rows of x up to which weight rows are read in several places, with AVX-512
constexpr int SCALES_AHEAD = 8;         // weight rows, whose scales of groups are asked for
constexpr int64_t MANY = 128;  // rows of x that stay in the second-level cache, while weights pass
constexpr int FLOAT_ROWS = 3;  // rows of x, that are multiplied with two weight rows together, and
constexpr int BYTE_ROWS = 4;   // of bytes

// Calls f(R, m) for pieces of M rows, R of them from m on: as few pieces of at most MOST as there can be, alike.
template <int MOST, class F>
void in_pieces(int64_t M, const F& f) {
  const int64_t num = (M + MOST - 1) / MOST;
  const auto run = [&](auto self, auto R, int64_t rows, int64_t m) {
    if (rows == R()) return f(R, m);
    if constexpr (R() > 1) self(self, std::integral_constant<int, R() - 1>{}, rows, m);
  };
  for (int64_t i = 0, m = 0; i < num; ++i) {
    const int64_t to = M * (i + 1) / num;
    run(run, std::integral_constant<int, MOST>{}, to - m, m);
    m = to;
  }
}

// How far apart rows of so many bytes lie best. A multiple of WAY apart, those that are used together push one another out of the
// first-level cache; an odd number of lines apart, up to 64 of them don't.
constexpr int64_t WAY = 4096;
int64_t apart(int64_t bytes) { return ((bytes + LINE - 1) / LINE | 1) * LINE; }

using Indices = std::array<int64_t, BLOCK_N>;

// `count` times four weight rows: the first, and those that lie `step` behind them each time, none behind the last.
struct Fours {
  Indices first;
  int64_t step, last;
  int count;

  Indices at(int i) const {
    Indices rows;
    for (int j = 0; j < BLOCK_N; ++j) rows[j] = std::min(first[j] + i * step, last);
    return rows;
  }

  // Calls f(rows, sums) for each four: theirs are beside one another.
  template <class Sum, class F>
  void each(Sum* sums, const F& f) const {
    for (int i = 0; i < count; ++i) f(at(i), sums + i * BLOCK_N);
  }
};

template <class W>
std::array<const W*, BLOCK_N> rows_at(const W* w, const Indices& rows, int64_t stride) {
  std::array<const W*, BLOCK_N> found;
  for (int i = 0; i < BLOCK_N; ++i) found[i] = w + rows[i] * stride;
  return found;
}

// A product in pieces of MANY rows and COLUMNS weight rows. `run(top, M, fours, sums)` writes what these have with the M rows from
// `top` on: each row's are COLUMNS behind those before. `done(m, n, count, sums)` takes row m's `count` of them from n on.
//
// Memory is quickest in the order in which it lies, for the processor foresees that. And a core has more of it on its way if it
// reads in several PLACES, far from one another: so the four come from as many parts of a thread's weight rows.
template <int PLACES, class Sum>
void over_columns(Shape s, int64_t bytes_a_row, const Function<int64_t, int64_t, const Fours&, Sum*>& run,
                  const Function<int64_t, int64_t, int64_t, const Sum*>& done) {
  constexpr int RUN = COLUMNS / PLACES;
  over_rows((s.N + SHARED - 1) / SHARED, SHARED * bytes_a_row, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * SHARED, last = std::min(end * SHARED, s.N), part = (last - first + PLACES - 1) / PLACES;
    std::vector<Sum> sums(std::min(MANY, s.M) * COLUMNS);
    for (int64_t top = 0; top < s.M; top += MANY)
      for (int64_t at = first; at < first + part; at += RUN) {
        const int64_t M = std::min(MANY, s.M - top), length = std::min<int64_t>(RUN, first + part - at);
        Fours fours{{}, BLOCK_N / PLACES, last - 1, int((length * PLACES + BLOCK_N - 1) / BLOCK_N)};
        for (int j = 0; j < BLOCK_N; ++j) fours.first[j] = at + j % PLACES * part + j / PLACES;
        run(top, M, fours, sums.data());
        for (int64_t m = 0; m < M; ++m)
          for (int place = 0; place < PLACES; ++place) {
            const int64_t n = at + place * part, count = std::min(length, last - n);
            if (count <= 0) continue;
            if constexpr (PLACES == 1) {
              done(top + m, n, count, &sums[m * COLUMNS]);
            } else {
              Sum mine[RUN];
              for (int i = 0; i < RUN; ++i) mine[i] = sums[m * COLUMNS + i * PLACES + place];
              done(top + m, n, count, mine);
            }
          }
      }
  });
}

// The sums of four vectors' lanes.
template <class V>
inline Vector<float, BLOCK_N> sums_of_four(const V* v) {
  return Vector<float, BLOCK_N>{sum(v[0]), sum(v[1]), sum(v[2]), sum(v[3])};
}

#if defined(__AVX2__)
inline Vector<float, BLOCK_N> sums_of_four(const Floats* v) {
  const auto both = [&](int i) { return _mm256_hadd_ps((__m256)v[i], (__m256)v[i + 1]); };
  const Floats all = (Floats)_mm256_hadd_ps(both(0), both(2));
  return half<Vector<float, BLOCK_N>>(all, 0) + half<Vector<float, BLOCK_N>>(all, 1);
}
#endif

#if defined(__AVX512F__)
inline Vector<float, BLOCK_N> sums_of_four(const __m512* v) {
  const auto both = [](__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b); };
  const auto a = (__m512d)both(v[0], v[1]), b = (__m512d)both(v[2], v[3]);
  const __m512 all = (__m512)_mm512_unpacklo_pd(a, b) + (__m512)_mm512_unpackhi_pd(a, b);
  const Floats two = half<Floats>(all, 0) + half<Floats>(all, 1);
  return half<Vector<float, BLOCK_N>>(two, 0) + half<Vector<float, BLOCK_N>>(two, 1);
}
#endif

#if defined(__AVX512F__)
// Where a block asks for what comes. Weight rows in PLACES of their own: each AHEAD of itself. Neighbours, which many rows meet: a later
// four in the order in which it lies, R of M rows, from m on, their share of it, so that requests come evenly.
struct Asking {
  const char* ahead = nullptr;
  int64_t step = 0;  // with each line

  // With a line of the n-th weight row; into the first-level cache (3) or the second (2).
  template <int PLACES, int LEVEL>
  void with(const void* line, int n) const {
    __builtin_prefetch(PLACES == 1 ? ahead + n * LINE : static_cast<const char*>(line) + AHEAD<PLACES>, 0, LEVEL);
  }
};

template <int PLACES>
inline Asking asking(const void* first, int64_t bytes, int64_t M, int64_t R, int64_t m) {
  if constexpr (PLACES == 1) {
    const char* later = static_cast<const char*>(first) + bytes * std::max<int64_t>(1, FAR / bytes);
    return {later + bytes * m / M, BLOCK_N * LINE * R / M};
  }
  return {};
}

// Calls f(PLACES, MOST): in how many places weight rows are read for M rows, and of how many of these a block is.
template <int MOST, class F>
void in_places(int64_t M, const F& f) {
  if (M > FEW_PLACED) return f(std::integral_constant<int, 1>{}, std::integral_constant<int, MOST>{});
  f(std::integral_constant<int, BLOCK_N>{}, std::integral_constant<int, FEW_PLACED>{});
}
#endif

// ---- float weights -----------------------------------------------------------------------------------------------

// Four weight rows with M rows of x (float32, K numbers each): sums (M, COLUMNS), each of two vectors, whatever M is. SIDE of
// the weight rows are read side by side.
template <int M, int SIDE, class W>
__attribute__((noinline)) void float_block(const W* const* w, const float* x, int64_t K, float* out) {
  Floats total[M][BLOCK_N];
  for (int i = 0; i < BLOCK_N; i += SIDE) {
    const W* rows[SIDE];
    each<SIDE>([&](auto n) { rows[n] = w[i + n]; });
    Floats mine[2][M * SIDE];
    each<M * SIDE>([&](auto j) { mine[0][j] = mine[1][j] = Floats{}; });
    for (int64_t k = 0; k < K; k += 4 * LANES)
      each<4>([&](auto c) {
        Floats weights[SIDE];
        each<SIDE>([&](auto n) {
          const W* line = rows[n] + k + c * LANES;
          if constexpr (c() * LANES * sizeof(W) % LINE == 0) __builtin_prefetch(reinterpret_cast<const char*>(line) + AHEAD<SIDE>);
          weights[n] = pinned(widen(line));
        });
        each<M>([&](auto m) {
          const Floats numbers = pinned(load<Floats>(x + m * K + k + c * LANES));
          each<SIDE>([&](auto n) {
            Floats& total = mine[c % 2][m * SIDE + n];
            total = plus_product(total, weights[n], numbers);
          });
        });
      });
    each<M * SIDE>([&](auto j) { total[j / SIDE][i + j % SIDE] = mine[0][j] + mine[1][j]; });
  }
  for (int m = 0; m < M; ++m) save(out + m * COLUMNS, sums_of_four(total[m]));
}

#if defined(__AVX512BF16__)
// Adds products of bfloat16, two to each lane of float32. (As an intrinsic it makes compilers move sums out of their registers.)
inline __m512 plus_pairs(__m512 total, __m512i a, __m512i b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(total) : "v"(a), "vm"(b));
  return total;
}

// Four weight rows with M rows of x, K a multiple of 32 and not 0: sums (M, COLUMNS). One vector of sums for each, whatever M is: a
// row is added in one order.
template <int M, int PLACES>
__attribute__((noinline)) void pair_block(const BFloat16* const* w, const BFloat16* x, int64_t K, Asking ask, float* out) {
  __m512 total[M][BLOCK_N];
  each<M * BLOCK_N>([&](auto j) { total[j / BLOCK_N][j % BLOCK_N] = _mm512_setzero_ps(); });
  int64_t k = 0;
  do {
    __m512i weights[BLOCK_N];
    each<BLOCK_N>([&](auto n) {
      ask.with<PLACES, 2>(w[n] + k, n);
      weights[n] = pinned(load<__m512i>(w[n] + k));
    });
    ask.ahead += ask.step;
    each<M>([&](auto m) {
      const __m512i numbers = pinned(load<__m512i>(x + m * K + k));
      each<BLOCK_N>([&](auto n) { total[m][n] = plus_pairs(total[m][n], weights[n], numbers); });
    });
  } while ((k += LINE / 2) < K);
  each<M>([&](auto m) { save(out + m * COLUMNS, sums_of_four(total[m])); });
}

void linear_rows(const BFloat16* x, const BFloat16* w, BFloat16* y, Shape s) {
  in_places<BLOCK_ROWS>(s.M, [&](auto PLACES, auto MOST) {
    const auto run = [&](int64_t top, int64_t M, const Fours& fours, float* all) {
      fours.each(all, [&](const Indices& rows, float* sums) {
        const auto weights = rows_at(w, rows, s.K);
        in_pieces<MOST()>(M, [&](auto R, int64_t m) {
          const Asking ask = asking<PLACES()>(weights[0], BLOCK_N * s.K * 2, M, R(), m);
          pair_block<R(), PLACES()>(weights.data(), x + (top + m) * s.K, s.K, ask, sums + m * COLUMNS);
        });
      });
    };
    over_columns<PLACES(), float>(s, s.K * 2, run, [&](int64_t m, int64_t n, int64_t count, const float* sums) {
      put(sums, count, 1, {ScalarType::BFloat16, y, s.N}, m, n);
    });
  });
}
#endif

template <class T>
std::vector<float> as_floats(const T* x, int64_t count) {
  return std::vector<float>(x, x + count);
}

template <int PLACES, class W>
void float_rows(const std::vector<float>& x, const W* w, Results y, Shape s) {
  const auto run = [&](int64_t top, int64_t M, const Fours& fours, float* all) {
    fours.each(all, [&](const Indices& rows, float* sums) {
      in_pieces<(PLACES == 4 ? 1 : FLOAT_ROWS)>(M, [&](auto R, int64_t m) {
        float_block<R(), PLACES>(rows_at(w, rows, s.K).data(), &x[(top + m) * s.K], s.K, sums + m * COLUMNS);
      });
    });
  };
  over_columns<PLACES, float>(s, s.K * sizeof(W), run, [&](int64_t m, int64_t n, int64_t count, const float* sums) {
    put(sums, count, 1, y, m, n);
  });
}

template <class X, class W>
void linear_rows(const X* x, const W* w, X* y, Shape s) {
  (s.M == 1 ? float_rows<4, W> : float_rows<2, W>)(as_floats(x, s.M * s.K), w, {TYPE<X>, y, s.N}, s);
}

// ---- rows as whole numbers ---------------------------------------------------------------------------------------

// x = q * scale, scale = the largest |x| of the row / 127. Returns the scale.
float quantize_row(const float* x, int64_t K, int8_t* q) {
  Floats most = {}, unknown = {};
  int64_t k = 0;
  for (; k + LANES <= K; k += LANES) {
    const Floats v = widen(x + k), size = v < 0 ? -v : v;
    most = size > most ? size : most;
    unknown += v - v;  // 0, but not of an infinity or of what is no number
  }
  float largest = 0, strange = sum(unknown);
  for (int i = 0; i < LANES; ++i) largest = std::max(largest, most[i]);
  for (int64_t rest = k; rest < K; ++rest) largest = std::max(largest, std::fabs(x[rest])), strange += x[rest] - x[rest];
  if (strange != 0) {
    std::memset(q, 0, K);
    return NAN;  // what is no number makes none
  }
  const float scale = largest >= 127 * std::numeric_limits<float>::min() ? largest / 127 : 1;  // a smaller one would lose its bits
  for (k = 0; k < K; ++k) q[k] = int8_t((x[k] / scale + 12582912.0f) - 12582912.0f);  // to the nearest, ties to even
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
    static thread_local std::vector<float> memory;
    memory.resize(to.K);
    float* wide = memory.data();
    for (int64_t m = begin; m < end; ++m) {
      row(m, wide);
      if (to.q) {
        to.a[m] = quantize_row(wide, to.K, to.q + m * to.K);
        continue;
      }
      T* y = to.x + m * to.K;
      int64_t k = 0;
      for (; k + LANES <= to.K; k += LANES) store(y + k, load<Floats>(wide + k));
      for (; k < to.K; ++k) store(y + k, wide[k]);
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
  return [=](int64_t m, float* to) { std::copy_n(x + m * K, K, to); };
}

std::tuple<Tensor, Tensor> quantize(const Tensor& x) {
  require(x.is_contiguous(), "quantize: not contiguous");
  return quantized(x, x.size(0), x.size(1), [&](auto* X) { return copied(data<Pointed<decltype(X)>>(x), x.size(1)); });
}

// ---- 8-bit weights -----------------------------------------------------------------------------------------------

// Adds products of 16-bit numbers, those of two neighbours to the lane of 32 bits in which they lie.
inline void add_products(Ints& total, const Shorts& a, const Shorts& b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  total = (Ints)_mm256_dpwssd_epi32((__m256i)total, (__m256i)a, (__m256i)b);
#elif defined(__AVX2__)
  total += (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
  const Ints x = (Ints)a, y = (Ints)b;
  total += (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

#if defined(__AVX2__)
constexpr bool QUICK_BYTES = true;  // whether bytes are multiplied without being widened
#else
constexpr bool QUICK_BYTES = false;
#endif

// The same of bytes, four to each lane, none of b -128: in pairs they fit in 16 bits.
using Chars = Vector<int8_t, 4 * LANES>;

inline void add_products(Ints& total, const Chars& a, const Chars& b) {
#if defined(__AVX2__)
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)a), _mm256_sign_epi8((__m256i)b, (__m256i)a));
  add_products(total, (Shorts)pairs, Shorts{} + 1);
#else
  for (int i = 0; i < 2; ++i)
    add_products(total, widen(reinterpret_cast<const int8_t*>(&a) + i * 2 * LANES), widen(reinterpret_cast<const int8_t*>(&b) + i * 2 * LANES));
#endif
}

constexpr int STEP = 2 * LANES;     // 16-bit numbers that are multiplied at a time: rows are filled up to a multiple with zeros
constexpr int SHORT_ROWS = 2;       // rows of q that are multiplied with four weight rows together: their sums fill the registers
constexpr int64_t BLOCK_K = 128;    // numbers of a row that stay in the first-level cache meanwhile

using Four = Vector<int32_t, BLOCK_N>;

// The sums of four vectors' lanes.
inline Four sums_of(const Ints* v) {
#if defined(__AVX2__)
  const auto first = [&](int i) { return _mm256_unpacklo_epi32((__m256i)v[i], (__m256i)v[i + 1]); };
  const auto second = [&](int i) { return _mm256_unpackhi_epi32((__m256i)v[i], (__m256i)v[i + 1]); };
  const __m256i a = _mm256_add_epi32(first(0), second(0)), b = _mm256_add_epi32(first(2), second(2));
  const __m256i all = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  return (Four)_mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
#else
  return Four{sum(v[0]), sum(v[1]), sum(v[2]), sum(v[3])};
#endif
}

// Four weight rows with M rows of q, K numbers of each (bytes or widened): their sums are added to those in `out` (M, COLUMNS). SIDE
// of the weight rows are read side by side. Exact up to K = 132,000.
template <int M, int SIDE, class W>
__attribute__((noinline)) void sum_block(const W* const* w, const W* q, int64_t wide, int64_t K, int32_t* out) {
  constexpr int LENGTH = LINE / 2 / sizeof(W), C = std::max(1, CHAINS / (M * SIDE));
  using Numbers = Vector<W, LENGTH>;
  Ints total[M][BLOCK_N];
  for (int i = 0; i < BLOCK_N; i += SIDE) {
    const W* rows[SIDE];
    each<SIDE>([&](auto n) { rows[n] = w[i + n]; });
    Ints mine[C][M * SIDE];
    each<C * M * SIDE>([&](auto j) { mine[j % C][j / C] = Ints{}; });
    const auto step = [&](auto c, int64_t k) {
      Numbers weights[SIDE];
      each<SIDE>([&](auto n) {
        if (sizeof(W) == 1) __builtin_prefetch(rows[n] + k + AHEAD<SIDE>);
        weights[n] = pinned(load<Numbers>(rows[n] + k));
      });
      each<M>([&](auto m) {
        const Numbers numbers = pinned(load<Numbers>(q + m * wide + k));
        each<SIDE>([&](auto n) { add_products(mine[c][m * SIDE + n], weights[n], numbers); });
      });
    };
    int64_t k = 0;
    for (; k + C * LENGTH <= K; k += C * LENGTH) each<C>([&](auto c) { step(c, k + c * LENGTH); });
    if constexpr (C > 1)
      for (; k < K; k += LENGTH) step(std::integral_constant<int, 0>{}, k);
    each<C - 1>([&](auto c) { each<M * SIDE>([&](auto j) { mine[0][j] += mine[c + 1][j]; }); });
    each<M * SIDE>([&](auto j) { total[j / SIDE][i + j % SIDE] = mine[0][j]; });
  }
  for (int m = 0; m < M; ++m) save(out + m * COLUMNS, load<Four>(out + m * COLUMNS) + sums_of(total[m]));
}

// `count` numbers as 16 bits, and zeros up to `space`, a multiple of STEP. What lies AHEAD is asked for meanwhile.
void spread(const int8_t* from, int64_t count, int64_t space, int16_t* to) {
  int64_t k = 0;
  for (; k + STEP <= count; k += STEP) {
    __builtin_prefetch(from + k + AHEAD<1>);
    save(to + k, widen(from + k));
  }
  for (; k < space; ++k) to[k] = k < count ? from[k] : 0;
}

int64_t filled(int64_t K) { return (K + STEP - 1) / STEP * STEP; }

// Memory of one thread that is not asked for anew at each call, from a multiple of 64 bytes on.
int16_t* kept(std::vector<int16_t>& memory, int64_t count) {
  if (int64_t(memory.size()) < count + 32) memory.resize(count + 32);
  return reinterpret_cast<int16_t*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~uintptr_t(63));
}

// Rows of q with weights as they lie, K a multiple of 4 LANES.
template <int PLACES>
void sum_rows(const int8_t* q, const float* a, const int8_t* w, Scales scales, Results y, Shape s) {
  const auto run = [&](int64_t top, int64_t M, const Fours& fours, int32_t* all) {
    fours.each(all, [&](const Indices& rows, int32_t* sums) {
      for (int64_t m = 0; m < M; ++m) save(sums + m * COLUMNS, Four{});
      in_pieces<(PLACES == 4 ? 2 : BYTE_ROWS)>(M, [&](auto R, int64_t m) {
        sum_block<R(), PLACES>(rows_at(w, rows, s.K).data(), q + (top + m) * s.K, s.K, s.K, sums + m * COLUMNS);
      });
    });
  };
  over_columns<PLACES, int32_t>(s, s.K, run, [&](int64_t m, int64_t n, int64_t count, const int32_t* sums) {
    put(sums, 0, count, a[m], scales, y, m, n);
  });
}

// Rows of q, (M, wide), with COLUMNS weight rows at a time: a part of these is widened once for all.
void short_columns(const int16_t* q, int64_t wide, const float* a, const int8_t* w, Scales scales, Results y, Shape s) {
  const int64_t N = s.N, K = s.K;
  over_rows((N + COLUMNS - 1) / COLUMNS, COLUMNS * K, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<int16_t> memory;
    int16_t* weights = kept(memory, COLUMNS * BLOCK_K);
    std::vector<int32_t> sums(std::min(MANY, s.M) * COLUMNS);
    for (int64_t top = 0; top < s.M; top += MANY)
      for (int64_t n = begin * COLUMNS; n < std::min(end * COLUMNS, N); n += COLUMNS) {
        const int64_t M = std::min(MANY, s.M - top);
        std::fill(sums.begin(), sums.end(), 0);
        for (int64_t k = 0; k < K; k += BLOCK_K) {
          const int64_t count = std::min(BLOCK_K, K - k), space = filled(count);
          for (int64_t i = 0; i < COLUMNS; ++i) spread(w + std::min(n + i, N - 1) * K + k, count, space, weights + i * space);
          in_pieces<SHORT_ROWS>(M, [&](auto R, int64_t m) {
            for (int64_t i = 0; i < COLUMNS; i += BLOCK_N) {
              const int16_t* four[BLOCK_N];
              for (int j = 0; j < BLOCK_N; ++j) four[j] = weights + (i + j) * space;
              sum_block<R(), BLOCK_N>(four, q + (top + m) * wide + k, wide, space, &sums[m * COLUMNS + i]);
            }
          });
        }
        for (int64_t m = 0; m < M; ++m)
          put(&sums[m * COLUMNS], 0, std::min<int64_t>(COLUMNS, N - n), a[top + m], scales, y, top + m, n);
      }
  });
}

// ---- rows as bytes -----------------------------------------------------------------------------------------------

#if defined(__AVX2__)
template <class T>
T* whole_lines(T* memory) {
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory) + LINE - 1) / LINE * LINE);
}

// Memory of one thread for tiles, that is not asked for anew at each call, from a multiple of 64 bytes on.
uint8_t* tile_memory(int64_t count) {
  static thread_local std::vector<uint8_t> memory;
  if (int64_t(memory.size()) < count + LINE) memory.resize(count + LINE);
  return whole_lines(memory.data());
}

struct Bytes {  // rows of q, `wide` apart
  int64_t M, K, size, wide;
  const int8_t* q;
  std::vector<int8_t> memory;
  std::vector<int32_t> sums;  // (M, K / size): of the numbers of each part of `size`, or what its sums begin at
  const int32_t* sums_of(int64_t m) const { return &sums[m * (K / size)]; }
};

// The rows as they lie, or `copied`: filled up with zeros to whole lines, from a multiple of 64 bytes on.
template <class Sum>
Bytes bytes_of(const int8_t* q, int64_t M, int64_t K, int64_t size, const Sum& sum, bool copied) {
  const int64_t wide = copied ? apart(K) : K;
  Bytes found{M, K, size, wide, q, std::vector<int8_t>(copied ? M * wide + LINE : 0), std::vector<int32_t>(M * (K / size))};
  int8_t* to = whole_lines(found.memory.data());
  if (copied) found.q = to;
  over_own_rows(M, K * 4, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      if (copied) std::copy_n(q + m * K, K, to + m * wide);
      for (int64_t g = 0; g < K / size; ++g) found.sums[m * (K / size) + g] = sum(q + m * K + g * size, size);
    }
  });
  return found;
}
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define BYTE_PRODUCTS

// ---- products of bytes: AVX-512 VNNI -----------------------------------------------------------------------------
//
// The instruction multiplies bytes without sign by bytes with one and adds four such products to each 32-bit lane. A weight
// becomes w + 128 (or, of 4 bits, is stored as w + 8), and the sums begin at -128 (-8) times the sum of the row of q.

constexpr int TILE = 32;     // weight rows, and
constexpr int ROWS = 12;     // rows of q, that are multiplied with a tile: their sums fill the registers
constexpr int WIDTH = TILE;  // weight rows whose tiles are at hand together
constexpr int64_t FEW = 16;  // rows of q up to which weights of 4 bits are multiplied as they lie,
constexpr int64_t FEW_BYTES = 96;    // and those of 8
constexpr int64_t LONGEST = 66'000;  // numbers of a row whose sum surely fits in 32 bits

// Adds products of bytes, the first without sign, four to each lane.
inline __m512i plus_fours(__m512i total, __m512i a, __m512i b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(total) : "v"(a), "vm"(b));
  return total;
}

// 64 bytes of a row, or what is left of it, and zeros.
inline __m512i load_line(const void* from, int64_t left) {
  const __mmask64 mask = left >= LINE ? ~__mmask64(0) : (__mmask64(1) << std::max<int64_t>(0, left)) - 1;
  return _mm512_maskz_loadu_epi8(mask, from);
}

int32_t sum_of(const int8_t* q, int64_t count) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i total = _mm512_setzero_si512();
  for (int64_t k = 0; k < count; k += LINE) total = plus_fours(total, ones, load_line(q + k, count - k));
  return sum(half<Ints>(total, 0) + half<Ints>(total, 1));
}

// The sums of four vectors' lanes.
inline Four sums_of(const __m512i* v) {
  const auto both = [](__m512i a, __m512i b) { return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)); };
  const __m512i a = both(v[0], v[1]), b = both(v[2], v[3]);
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  const Ints two = half<Ints>(all, 0) + half<Ints>(all, 1);
  return half<Four>(two, 0) + half<Four>(two, 1);
}

// Four weight rows with M rows of q, K a multiple of LINE and not 0: sums (M, COLUMNS).
template <int M, int PLACES>
__attribute__((noinline)) void byte_block(const int8_t* const* w, const int8_t* q, int64_t K, int64_t wide, Asking ask, int32_t* out) {
  const __m512i flip = _mm512_set1_epi8(-128);
  __m512i total[M][BLOCK_N];
  each<M * BLOCK_N>([&](auto j) { total[j / BLOCK_N][j % BLOCK_N] = _mm512_setzero_si512(); });
  int64_t k = 0;
  do {
    __m512i weights[BLOCK_N];
    each<BLOCK_N>([&](auto n) {
      ask.with<PLACES, 2>(w[n] + k, n);
      weights[n] = pinned(_mm512_xor_si512(load<__m512i>(w[n] + k), flip));
    });
    ask.ahead += ask.step;
    each<M>([&](auto m) {
      const __m512i numbers = pinned(load<__m512i>(q + m * wide + k));
      each<BLOCK_N>([&](auto n) { total[m][n] = plus_fours(total[m][n], weights[n], numbers); });
    });
  } while ((k += LINE) < K);
  each<M>([&](auto m) { save(out + m * COLUMNS, sums_of(total[m])); });
}

// What is left of four weight rows behind their whole lines, added to the sums.
void byte_ends(const int8_t* const* w, const int8_t* q, int64_t K, int64_t wide, int64_t M, int32_t* out) {
  const int64_t k = K / LINE * LINE;
  const __m512i flip = _mm512_set1_epi8(-128);
  for (int64_t m = 0; m < M; ++m) {
    __m512i total[BLOCK_N];
    for (int n = 0; n < BLOCK_N; ++n)
      total[n] = plus_fours(_mm512_setzero_si512(), _mm512_xor_si512(load_line(w[n] + k, K - k), flip), load<__m512i>(q + m * wide + k));
    save(out + m * COLUMNS, load<Four>(out + m * COLUMNS) + sums_of(total));
  }
}

void byte_rows(const int8_t* q, const float* a, const int8_t* w, Scales scales, Results y, Shape s) {
  const Bytes x = bytes_of(q, s.M, s.K, s.K, sum_of, true);
  const int64_t K = s.K, lines = K / LINE * LINE, wide = x.wide;
  in_places<BLOCK_ROWS>(s.M, [&](auto PLACES, auto MOST) {
    const auto run = [&](int64_t top, int64_t M, const Fours& fours, int32_t* all) {
      const int8_t* numbers = x.q + top * wide;
      fours.each(all, [&](const Indices& rows, int32_t* sums) {
        const auto weights = rows_at(w, rows, K);
        if (lines)
          in_pieces<MOST()>(M, [&](auto R, int64_t m) {
            const Asking ask = asking<PLACES()>(weights[0], BLOCK_N * K, M, R(), m);
            byte_block<R(), PLACES()>(weights.data(), numbers + m * wide, lines, wide, ask, sums + m * COLUMNS);
          });
        else
          for (int64_t m = 0; m < M; ++m) save(sums + m * COLUMNS, Four{});
        if (lines < K) byte_ends(weights.data(), numbers, K, wide, M, sums);
      });
    };
    over_columns<PLACES(), int32_t>(s, K, run, [&](int64_t m, int64_t n, int64_t count, const int32_t* sums) {
      put(sums, -128 * *x.sums_of(m), count, a[m], scales, y, m, n);
    });
  });
}

// ---- tiles: AVX-512 VNNI -----------------------------------------------------------------------------------------

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

// 64 weights of a row from k on, those of 4 bits as they are stored, with 8 added; those of 8 bits with 128 added.
inline __m512i unsigned_line(const uint8_t* row, int64_t k) {
  const __m256i both = load<__m256i>(row + k / 2), mask = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256(both, mask), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
  const __m256i first = _mm256_unpacklo_epi8(low, high), second = _mm256_unpackhi_epi8(low, high);
  const __m256i lower = _mm256_permute2x128_si256(first, second, 0x20), upper = _mm256_permute2x128_si256(first, second, 0x31);
  return _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
}
inline __m512i unsigned_line(const int8_t* row, int64_t k) { return _mm512_xor_si512(load<__m512i>(row + k), _mm512_set1_epi8(-128)); }

// A tile: TILE weight rows, four numbers of each beside one another. Meanwhile the next tile is asked for.
template <class Row>
void pack(int64_t K, const Row& row, uint8_t* tile) {
  constexpr int BITS = std::is_same_v<decltype(row(0)), const int8_t*> ? 8 : 4;
  for (int64_t k = 0; k < K; k += LINE)
    for (int half = 0; half < TILE; half += 16) {
      __m512i rows[16];
      for (int n = 0; n < 16; ++n) rows[n] = unsigned_line(row(half + n), k);
      for (int n = 0; n < 2 * BITS; ++n) __builtin_prefetch(row(0) + (TILE * (K + k) + half * LINE) * BITS / 8 + n * LINE, 0, 2);
      transpose(rows);
      for (int i = 0; i < 16; ++i) save(tile + k * TILE + i * 4 * TILE + half * 4, rows[i]);
    }
}

// Calls f(R, m) for pieces of M rows as tiles take them.
template <class F>
void in_tiles(int64_t M, const F& f) {
  int64_t m = 0;
  for (; m + ROWS <= M; m += ROWS) f(std::integral_constant<int, ROWS>{}, m);
  if (m < M) in_eights(M - m, [&](auto R, int64_t r) { f(R, m + r); });
}

// `count` numbers of M rows of q, `wide` apart, with as many of a tile, at least four: added to the sums.
template <int M>
__attribute__((always_inline)) inline void add_tile(__m512i (&total)[M][2], const int8_t* q, int64_t wide, const uint8_t* tile,
                                                    int64_t count) {
  const int8_t* end = q + count;
  do {
    const __m512i first = pinned(load<__m512i>(tile)), second = pinned(load<__m512i>(tile + LINE));
    each<M>([&](auto r) {
      const __m512i four = pinned(_mm512_set1_epi32(load<int32_t>(q + r * wide)));
      total[r][0] = plus_fours(total[r][0], first, four);
      total[r][1] = plus_fours(total[r][1], second, four);
    });
  } while (tile += 4 * TILE, (q += 4) < end);
}

// M rows of q from m on with a tile: out (M, TILE).
template <int M>
__attribute__((noinline)) void byte_tile(const Bytes& a, int64_t m, const uint8_t* tile, int32_t* out) {
  __m512i total[M][2];
  each<M * 2>([&](auto j) { total[j / 2][j % 2] = pinned(_mm512_set1_epi32(-128 * *a.sums_of(m + j / 2))); });
  add_tile<M>(total, a.q + m * a.wide, a.wide, tile, a.K);
  each<M * 2>([&](auto j) { save(out + j * 16, total[j / 2][j % 2]); });
}

// Many rows of q, K a multiple of LINE.
void byte_tiles(const int8_t* q, const float* a, const int8_t* w, Scales scales, Results to, Shape s) {
  const Bytes rows = bytes_of(q, s.M, s.K, s.K, sum_of, s.K % WAY == 0);
  const int64_t N = s.N, K = s.K;
  over_rows((N + TILE - 1) / TILE, TILE * K, [&](int64_t begin, int64_t end) {
    uint8_t* tile = tile_memory(TILE * K);
    alignas(LINE) int32_t out[ROWS * TILE];
    float floats[TILE];
    for (int64_t n = begin * TILE; n < std::min(end * TILE, N); n += TILE) {
      const int64_t count = std::min<int64_t>(TILE, N - n);
      const float* theirs = scales.floats(n, count, floats);
      pack(K, [&](int64_t i) { return w + std::min(n + i, N - 1) * K; }, tile);
      in_tiles(s.M, [&](auto M, int64_t m) {
        to.ask<M()>(m, n);
        byte_tile<M()>(rows, m, tile, out);
        put_rows(out, TILE, M(), count, a + m, theirs, to, m, n);
      });
    }
  });
}
#elif defined(__AVX2__)

// ---- 8-bit weights in tiles: AVX2 --------------------------------------------------------------------------------
//
// Without an instruction that adds four products of bytes, one that adds two of 16-bit numbers is the quickest with many rows:
// their weights are widened once for all of these.

constexpr int TILE = 16;              // weight rows, and
constexpr int ROWS = 6;               // rows of q, that are multiplied with a tile: their sums fill the registers
constexpr int WIDTH = 4 * TILE;       // weight rows whose tiles are at hand together: what they have of a row fills lines of the cache
constexpr int64_t FEW = 16;           // rows of q up to which weights of 4 bits are multiplied as they lie,
constexpr int64_t MANY_WIDENED = 48;  // and those of 8

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

// Calls f(R, m) for pieces of M rows as tiles take them.
template <class F>
void in_tiles(int64_t M, const F& f) {
  in_pieces<ROWS>(M, f);
}

// A tile: TILE weight rows as 16-bit numbers, two of each beside one another. Meanwhile the next tile is asked for.
template <class Row>
void pack_wide(int64_t K, const Row& row, int16_t* tile) {
  for (int64_t k = 0; k < K; k += STEP)
    for (int side = 0; side < TILE; side += LANES) {
      __m256i rows[LANES];
      for (int n = 0; n < LANES; ++n) {
        const int8_t* from = row(side + n) + k;
        rows[n] = (__m256i)widen(from);
        if (k % LINE == 0) __builtin_prefetch(from + TILE * K, 0, 2);
      }
      transpose(rows);
      for (int i = 0; i < LANES; ++i) save(tile + (k + i * 2) * TILE + side * 2, rows[i]);
    }
}

// M rows of q, `wide` apart, with a tile: sums (M, TILE), WIDTH apart.
template <int M>
__attribute__((noinline)) void wide_rows(const int16_t* q, int64_t wide, const int16_t* tile, int64_t K, int32_t* out) {
  constexpr int N = TILE / LANES;
  Ints total[M * N] = {};
  for (int64_t k = 0; k < K; k += 2) {
    Shorts weights[N];
    each<N>([&](auto n) { weights[n] = pinned(load<Shorts>(tile + k * TILE + n * 2 * LANES)); });
    each<M>([&](auto r) {
      const auto two = pinned((Shorts)_mm256_set1_epi32(load<int32_t>(q + r * wide + k)));
      each<N>([&](auto n) { add_products(total[r * N + n], weights[n], two); });
    });
  }
  each<M * N>([&](auto j) { save(out + j / N * WIDTH + j % N * LANES, total[j]); });
}

// Many rows of q, `wide` apart; K a multiple of STEP.
void byte_tiles(const int16_t* q, int64_t wide, const float* a, const int8_t* w, Scales scales, Results to, Shape s) {
  const int64_t N = s.N, K = s.K;
  over_rows((N + WIDTH - 1) / WIDTH, WIDTH * K, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<int16_t> memory;
    int16_t* tiles = kept(memory, WIDTH * K);
    alignas(LINE) int32_t out[ROWS * WIDTH];
    float floats[WIDTH];
    for (int64_t n = begin * WIDTH; n < std::min(end * WIDTH, N); n += WIDTH) {
      const int64_t count = std::min<int64_t>(WIDTH, N - n);
      const float* theirs = scales.floats(n, count, floats);
      for (int64_t t = 0; t < count; t += TILE) pack_wide(K, [&](int64_t i) { return w + std::min(n + t + i, N - 1) * K; }, tiles + t * K);
      in_tiles(s.M, [&](auto M, int64_t m) {
        to.ask<M()>(m, n);
        for (int64_t t = 0; t < count; t += TILE) wide_rows<M()>(q + m * wide, wide, tiles + t * K, K, out + t);
        put_rows(out, WIDTH, M(), count, a + m, theirs, to, m, n);
      });
    }
  });
}
#endif

void int8_rows(const int8_t* q, const float* a, const int8_t* w, Scales scales, Results y, Shape s) {
#if defined(BYTE_PRODUCTS)
  if (s.K <= LONGEST) return (s.M > FEW_BYTES && s.K % LINE == 0 ? byte_tiles : byte_rows)(q, a, w, scales, y, s);
#endif
#if defined(__AVX2__) && !defined(BYTE_PRODUCTS)
  const bool tiles = s.M > MANY_WIDENED && s.K % STEP == 0;
#else
  constexpr bool tiles = false;
#endif
  if (!tiles && (QUICK_BYTES || s.M <= BYTE_ROWS) && s.K % (4 * LANES) == 0) return (s.M <= 2 ? sum_rows<4> : sum_rows<2>)(q, a, w, scales, y, s);
  static thread_local std::vector<int16_t> memory;
  const int64_t M = s.M, K = s.K, wide = apart(filled(K) * 2) / 2;
  int16_t* rows = kept(memory, M * wide);
  over_own_rows(M, K * 4, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) spread(q + m * K, K, wide, rows + m * wide);
  });
#if defined(__AVX2__) && !defined(BYTE_PRODUCTS)
  if (tiles) return byte_tiles(rows, wide, a, w, scales, y, s);
#endif
  short_columns(rows, wide, a, w, scales, y, s);
}

// Sums of another product, (M, N) int32, as product_int8 gives them: in one pass.
Tensor scale_sums(const Tensor& sums, const Tensor& a, const Tensor& s, const Tensor& like) {
  const int64_t M = sums.size(0), N = sums.size(1);
  require(sums.is_contiguous() && a.is_contiguous() && s.is_contiguous(), "scale_sums: not contiguous");
  require(sums.scalar_type() == ScalarType::Int && a.scalar_type() == ScalarType::Float && a.numel() == M && s.numel() == N,
          "scale_sums: bad arguments");
  Tensor y = output(like, M, N);
  const Scales scales{s.scalar_type(), s.data_ptr()};
  const Results to{y.scalar_type(), y.data_ptr(), N};
  over_rows(M, N * 8, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) put(data<int32_t>(sums) + m * N, 0, N, data<float>(a)[m], scales, to, m, 0);
  });
  return y;
}

// ---- 4-bit weights in groups -------------------------------------------------------------------------------------

// Products of bytes, those of the first from 0 to 15, added in pairs: eight such sums still fit in 16 bits.
template <int BYTES>
inline Vector<int16_t, BYTES / 2> byte_products(const Vector<uint8_t, BYTES>& a, const Vector<int8_t, BYTES>& b) {
  using Half = Vector<int16_t, BYTES / 2>;
#if defined(__AVX2__)
  if constexpr (BYTES == 32) return (Half)_mm256_maddubs_epi16((__m256i)a, (__m256i)b);
  if constexpr (BYTES == 16) return (Half)_mm_maddubs_epi16((__m128i)a, (__m128i)b);
#endif
  using A = Vector<uint8_t, BYTES / 2>;
  using B = Vector<int8_t, BYTES / 2>;
  Half total = {};
  for (int h = 0; h < BYTES; h += BYTES / 2)
    total += __builtin_convertvector(load<A>(reinterpret_cast<const uint8_t*>(&a) + h), Half) *
             __builtin_convertvector(load<B>(reinterpret_cast<const int8_t*>(&b) + h), Half);
  return total;
}

template <int BYTES>
inline Vector<int32_t, BYTES / 4> in_pairs(const Vector<int16_t, BYTES / 2>& v) {
#if defined(__AVX2__)
  if constexpr (BYTES == 32) return (Ints)_mm256_madd_epi16((__m256i)v, _mm256_set1_epi16(1));
  if constexpr (BYTES == 16) return (Vector<int32_t, 4>)_mm_madd_epi16((__m128i)v, _mm_set1_epi16(1));
#endif
  using Half = Vector<int16_t, BYTES / 4>;
  using Wide = Vector<int32_t, BYTES / 4>;
  const auto* from = reinterpret_cast<const int16_t*>(&v);
  return __builtin_convertvector(load<Half>(from), Wide) + __builtin_convertvector(load<Half>(from + BYTES / 4), Wide);
}

struct Groups {  // rows of q for 4-bit weights, M of them, K numbers each, `size` in a group
  int64_t M, K, size, num, wide;
  std::vector<int8_t> q;       // each row as its even numbers, then its odd ones: as they lie in the weights' halves; `wide` apart
  std::vector<float> balance;  // for each group -8 sum q: a stored weight is 8 too large
};

Groups grouped(const int8_t* q, int64_t M, int64_t K, int64_t size) {
  const int64_t num = K / size, wide = apart(K);
  Groups found{M, K, size, num, wide, std::vector<int8_t>(M * wide), std::vector<float>(M * num)};
  for (int64_t m = 0; m < M; ++m) {
    int8_t* row = found.q.data() + m * wide;
    for (int64_t k = 0; k < K / 2; ++k) row[k] = q[m * K + 2 * k], row[K / 2 + k] = q[m * K + 2 * k + 1];
    for (int64_t g = 0; g < num; ++g) {
      int32_t sum = 0;
      for (int64_t k = 0; k < size; ++k) sum += q[m * K + g * size + k];
      found.balance[m * num + g] = -8 * sum;
    }
  }
  return found;
}

// A number in all lanes; where it HALVES, in half of them, and the next in the others.
template <int N, bool HALVES>
inline Vector<float, N> lanes_of(const float* s) {
#if defined(__AVX2__)
  if constexpr (HALVES) return (Floats)_mm256_set_m128(_mm_set1_ps(s[1]), _mm_set1_ps(s[0]));
#endif
  return in_all_lanes<Vector<float, N>>(*s);
}

// Four weight rows with R rows of q from m on: sums (R, COLUMNS). BYTES of a row, a part of it, are summed as whole numbers; where it
// HALVES, they are of two groups, whose sums stay apart.
template <int BYTES, bool HALVES, int R>
__attribute__((noinline)) void group_block(const Groups& a, int64_t m, const uint8_t* const* w, const float* const* scales, float* out) {
  using Bytes = Vector<uint8_t, BYTES>;
  using Numbers = Vector<int8_t, BYTES>;
  using Sums = Vector<float, BYTES / 4>;
  const int64_t num_parts = a.K / (2 * BYTES), parts = std::max<int64_t>(1, a.size / (2 * BYTES)), half = a.K / 2, num = a.num;
  const int8_t* q = &a.q[m * a.wide];
  const float* balance = &a.balance[m * num];
  Sums total[R][BLOCK_N];
  for (int i = 0; i < BLOCK_N; ++i) {
    Sums mine[R];
    each<R>([&](auto r) { mine[r] = Sums{}; });
    int64_t g = 0;
    for (; g + BYTES / 4 <= num; g += BYTES / 4)
      each<R>([&](auto r) { mine[r] = plus_product(mine[r], load<Sums>(balance + r * num + g), load<Sums>(scales[i] + g)); });
    for (; g < num; ++g) each<R>([&](auto r) { mine[r] = plus_product(mine[r], Sums{balance[r * num + g]}, Sums{scales[i][g]}); });
    for (int64_t part = 0, group = 0, left = parts; part < num_parts; ++part) {
      const uint8_t* p = w[i] + part * BYTES;
      const Bytes both = pinned(load<Bytes>(p)), low = pinned(both & 15), high = pinned(both >> 4);
      __builtin_prefetch(p + AHEAD<1>);
      const Sums scale = pinned(lanes_of<BYTES / 4, HALVES>(scales[i] + group * (1 + HALVES)));
      each<R>([&](auto r) {
        const int8_t* numbers = q + r * a.wide + part * BYTES;
        const auto pairs = byte_products<BYTES>(low, load<Numbers>(numbers)) + byte_products<BYTES>(high, load<Numbers>(numbers + half));
        mine[r] = plus_product(mine[r], __builtin_convertvector(in_pairs<BYTES>(pairs), Sums), scale);
      });
      if (--left == 0) left = parts, ++group;
    }
    each<R>([&](auto r) { total[r][i] = mine[r]; });
  }
  for (int r = 0; r < R; ++r) save(out + r * COLUMNS, sums_of_four(total[r]));
}

// Row m of q with fours, four weight rows side by side and a line of each at a time: their sums in the order of group_block, so that a
// row's result does not depend on who computes it. `memory`: room for the scales of four rows, which become floats on the way.
template <bool HALVES>
__attribute__((noinline)) void one_row(const Groups& a, int64_t m, const uint8_t* p, const Fours& fours, Scales scales, float* memory,
                                       float* out) {
  constexpr int BYTES = LINE / 2;
  using Bytes = Vector<uint8_t, BYTES>;
  using Numbers = Vector<int8_t, BYTES>;
  const int64_t half = a.K / 2, num = a.num;
  const int shift = a.size / (2 * LINE);  // parts of a group are 1, 2 or 4
  const int8_t *evens = &a.q[m * a.wide], *odds = evens + half;
  const float* balance = &a.balance[m * num];
  fours.each(out, [&](const Indices& rows, float* sums) {
    const uint8_t* weights[BLOCK_N];
    Floats total[BLOCK_N];
    each<BLOCK_N>([&](auto n) {
      weights[n] = p + rows[n] * half;
      const int64_t first = rows[n] * num;
      scales.ask(first + SCALES_AHEAD * num);
      Floats begin = {};
      int64_t g = 0;
      for (; g + LANES <= num; g += LANES) {
        const Floats some = scales.some(first + g);
        save(memory + n * num + g, some);
        begin = plus_product(begin, load<Floats>(balance + g), some);
      }
      for (; g < num; ++g) {
        memory[n * num + g] = scales.one(first + g);
        begin = plus_product(begin, Floats{balance[g]}, Floats{memory[n * num + g]});
      }
      total[n] = begin;
    });
    const auto add = [&](auto c, int64_t line) __attribute__((always_inline)) {
      const int64_t at = line + c * BYTES, part = line / BYTES + c;
      const float* theirs = memory + (HALVES ? 2 * part : part >> shift);
      const Numbers even = pinned(load<Numbers>(evens + at)), odd = pinned(load<Numbers>(odds + at));
      each<BLOCK_N>([&](auto n) {
        const Bytes both = pinned(load<Bytes>(weights[n] + at));
        const auto pairs = byte_products<BYTES>(both & 15, even) + byte_products<BYTES>(both >> 4, odd);
        const Floats sums = __builtin_convertvector(in_pairs<BYTES>(pairs), Floats);
        total[n] = plus_product(total[n], sums, lanes_of<LANES, HALVES>(theirs + n * num));
        if constexpr (c == 0) __builtin_prefetch(weights[n] + at + AHEAD<BLOCK_N>);
      });
    };
    int64_t line = 0;
    for (; line + LINE <= half; line += LINE) each<2>([&](auto c) { add(c, line); });
    if (line < half) add(std::integral_constant<int, 0>{}, line);
    save(sums, sums_of_four(total));
  });
}

template <int BYTES, bool HALVES, int PLACES>
void group_rows(const int8_t* q, const float* a, const uint8_t* p, Scales scales, Results y, Shape s, int64_t size) {
  const Groups x = grouped(q, s.M, s.K, size);
  const auto run = [&](int64_t top, int64_t M, const Fours& fours, float* all) {
    static thread_local std::vector<float> memory;
    if (int64_t(memory.size()) < BLOCK_N * x.num) memory.resize(BLOCK_N * x.num);
    const int64_t alone = BYTES == LINE / 2 ? M % 2 : 0;
    if (M > alone)
      fours.each(all, [&](const Indices& rows, float* sums) {
        std::array<const float*, BLOCK_N> theirs;
        for (int i = 0; i < BLOCK_N; ++i) theirs[i] = scales.floats(rows[i] * x.num, x.num, &memory[i * x.num], SCALES_AHEAD * x.num);
        in_eights(M - alone, [&](auto R, int64_t m) {
          if constexpr (R() > 1 || BYTES < LINE / 2)
            group_block<BYTES, HALVES, R()>(x, top + m, rows_at(p, rows, s.K / 2).data(), theirs.data(), sums + m * COLUMNS);
        });
      });
    if constexpr (BYTES == LINE / 2)
      if (alone) one_row<HALVES>(x, top + M - 1, p, fours, scales, memory.data(), all + (M - 1) * COLUMNS);
  };
  over_columns<PLACES, float>(s, s.K / 2, run, [&](int64_t m, int64_t n, int64_t count, const float* sums) {
    put(sums, count, a[m], y, m, n);
  });
}

#if defined(BYTE_PRODUCTS)
// 128 numbers of a row of q, for as many weights: 64 bytes of them.
struct alignas(LINE) Numbers {
  int8_t even[LINE], odd[LINE];
  int32_t balance[LINE / 4];  // -8 sum q, lane by lane: a stored weight is 8 too large
};

int64_t num_lines(int64_t K) { return (K + 2 * LINE - 1) / (2 * LINE); }

std::vector<Numbers> numbers_of(const int8_t* q, int64_t M, int64_t K) {
  const int64_t num = num_lines(K);
  std::vector<Numbers> found(M * num);
  const __m512i eights = _mm512_set1_epi8(8);
  over_own_rows(M, K * 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * num; i < end * num; ++i) {
      const int64_t m = i / num, first = i % num * 2 * LINE;
      Numbers& mine = found[i];
      for (int64_t k = 0; k < 2 * LINE; k += LINE) {
        const __m512i pairs = load_line(q + m * K + first + k, K - first - k);
        save(mine.even + k / 2, _mm512_cvtepi16_epi8(pairs));
        save(mine.odd + k / 2, _mm512_cvtepi16_epi8(_mm512_srli_epi16(pairs, 8)));
      }
      const __m512i sums = plus_fours(plus_fours(_mm512_setzero_si512(), eights, load<__m512i>(mine.even)), eights,
                                      load<__m512i>(mine.odd));
      save(mine.balance, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
    }
  });
  return found;
}

// The scales of 128 weights in the lanes of their groups: `order` says which, `some` how many there are.
inline __m512 spread_scales(const float* s, __mmask8 some, __m512i order) {
  return _mm512_permutexvar_ps(order, _mm512_castps256_ps512(_mm256_maskz_loadu_ps(some, s)));
}
inline __m512 spread_scales(const BFloat16* s, __mmask8 some, __m512i order) {
  const __m512i bits = _mm512_castsi128_si512(_mm_maskz_loadu_epi16(some, s));
  return (__m512)_mm512_slli_epi32(_mm512_permutexvar_epi16(order, bits), 16);
}

// Four weight rows of 4 bits with M rows of q: sums (M, COLUMNS).
template <int M, int PLACES, class S>
__attribute__((noinline)) void nibble_block(const uint8_t* const* p, const S* const* scales, int64_t K, int64_t size,
                                            const Numbers* q, Asking ask, float* out) {
  const int64_t num = num_lines(K), num_groups = K / size, groups = std::max<int64_t>(1, 2 * LINE / size);  // of a line
  Vector<int32_t, 16> order;
  for (int i = 0; i < 16; ++i) order[i] = i * groups / 16;
  const __m512i low_half = _mm512_set1_epi8(15), lanes = (__m512i)order;
  __m512 total[M][BLOCK_N];
  each<M * BLOCK_N>([&](auto j) { total[j / BLOCK_N][j % BLOCK_N] = _mm512_setzero_ps(); });
  int64_t i = 0;
  do {
    const int64_t left = K / 2 - i * LINE, g = uint32_t(i * 2 * LINE) / uint32_t(size);
    const __mmask64 mask = left >= LINE ? ~__mmask64(0) : (__mmask64(1) << left) - 1;
    const __mmask8 some((1 << std::min(groups, num_groups - g)) - 1);
    __m512i low[BLOCK_N], high[BLOCK_N];
    __m512 scale[BLOCK_N];
    each<BLOCK_N>([&](auto n) {
      ask.with<PLACES, 3>(p[n] + i * LINE, n);
      const __m512i both = _mm512_maskz_loadu_epi8(mask, p[n] + i * LINE);
      low[n] = pinned(_mm512_and_si512(both, low_half));
      high[n] = pinned(_mm512_and_si512(_mm512_srli_epi16(both, 4), low_half));
      scale[n] = pinned(spread_scales(scales[n] + g, some, lanes));
    });
    ask.ahead += ask.step;
    each<M>([&](auto m) {
      const Numbers& numbers = q[m * num + i];
      const __m512i even = pinned(load<__m512i>(numbers.even)), odd = pinned(load<__m512i>(numbers.odd));
      each<BLOCK_N>([&](auto n) {
        const __m512i sums = plus_fours(plus_fours(load<__m512i>(numbers.balance), low[n], even), high[n], odd);
        total[m][n] = plus_product(total[m][n], _mm512_cvtepi32_ps(sums), scale[n]);
      });
    });
  } while (++i < num);
  each<M>([&](auto m) { save(out + m * COLUMNS, sums_of_four(total[m])); });
}

template <class S>
void nibble_rows(const int8_t* q, const float* a, const uint8_t* p, const S* scales, Results y, Shape s, int64_t size) {
  const std::vector<Numbers> numbers = numbers_of(q, s.M, s.K);
  const int64_t num = num_lines(s.K);
  in_places<4>(s.M, [&](auto PLACES, auto MOST) {
    const auto run = [&](int64_t top, int64_t M, const Fours& fours, float* all) {
      fours.each(all, [&](const Indices& rows, float* sums) {
        const auto weights = rows_at(p, rows, s.K / 2);
        const auto theirs = rows_at(scales, rows, s.K / size);
        in_pieces<MOST()>(M, [&](auto R, int64_t m) {
          const Asking ask = asking<PLACES()>(weights[0], BLOCK_N * s.K / 2, M, R(), m);
          const Numbers* mine = &numbers[(top + m) * num];
          nibble_block<R(), PLACES(), S>(weights.data(), theirs.data(), s.K, size, mine, ask, sums + m * COLUMNS);
        });
      });
    };
    over_columns<PLACES(), float>(s, s.K / 2, run, [&](int64_t m, int64_t n, int64_t count, const float* sums) {
      put(sums, count, a[m], y, m, n);
    });
  });
}

int64_t part_of(int64_t size) { return size; }

int32_t begin_of(const int8_t* q, int64_t count) { return -8 * sum_of(q, count); }

// M rows of q from m on with a tile: out (M, TILE), WIDTH apart, gets the sum over the groups of scale times the group's sum.
template <int M>
__attribute__((noinline)) void tile_rows(const Bytes& a, int64_t m, const uint8_t* tile, const float* scales, int64_t size, float* out) {
  const int8_t* q = a.q + m * a.wide;
  const int64_t num_groups = a.K / size;
  const int32_t* begins = a.sums_of(m);
  __m512 kept[M][2] = {};
  for (int64_t g = 0; g < num_groups; ++g, q += size, tile += size * TILE, scales += TILE) {
    __m512i total[M][2];
    each<M>([&](auto r) { total[r][0] = total[r][1] = _mm512_set1_epi32(begins[r * num_groups + g]); });
    add_tile<M>(total, q, a.wide, tile, size);
    const __m512 scale[2] = {pinned(load<__m512>(scales)), pinned(load<__m512>(scales + 16))};
    each<M * 2>([&](auto j) {
      const auto sums = (__m512)__builtin_convertvector((Vector<int32_t, 16>)total[j / 2][j % 2], Vector<float, 16>);
      kept[j / 2][j % 2] = plus_product(kept[j / 2][j % 2], sums, scale[j % 2]);
    });
  }
  each<M * 2>([&](auto j) { save(out + j / 2 * WIDTH + j % 2 * 16, kept[j / 2][j % 2]); });
}

#elif defined(__AVX2__)

// ---- 4-bit weights in tiles: AVX2 --------------------------------------------------------------------------------

// Numbers of a group that are summed as whole numbers: as many as surely fit.
int64_t part_of(int64_t size) { return size % LINE ? LINE / 2 : LINE; }

// What the sums of such a part begin at: -8 times the first two of each four numbers, and in the upper half the last two.
int32_t begin_of(const int8_t* q, int64_t count) {
  int32_t first = 0, last = 0;
  for (int64_t k = 0; k < count; k += 4) first += q[k] + q[k + 1], last += q[k + 2] + q[k + 3];
  return int32_t(uint32_t(-8 * last) << 16 | uint16_t(-8 * first));
}

// 32 weights of a row, each with 8 added.
inline __m256i nibble_line(const uint8_t* p) {
  const __m128i both = load<__m128i>(p), mask = _mm_set1_epi8(15);
  const __m128i low = _mm_and_si128(both, mask), high = _mm_and_si128(_mm_srli_epi16(both, 4), mask);
  return _mm256_setr_m128i(_mm_unpacklo_epi8(low, high), _mm_unpackhi_epi8(low, high));
}

// A tile: TILE weight rows, four numbers of each beside one another.
template <class Row>
void pack(int64_t K, const Row& row, uint8_t* tile) {
  for (int64_t k = 0; k < K; k += LINE / 2)
    for (int side = 0; side < TILE; side += LANES) {
      __m256i rows[LANES];
      for (int n = 0; n < LANES; ++n) {
        rows[n] = nibble_line(row(side + n) + k / 2);
        if (k % (2 * LINE) == 0) __builtin_prefetch(row(side + n) + (TILE * K + k) / 2, 0, 2);  // the next tile's
      }
      transpose(rows);
      for (int i = 0; i < LANES; ++i) save(tile + (k + i * 4) * TILE + side * 4, rows[i]);
    }
}

// M rows of q from m on with a tile: out (M, TILE), WIDTH apart, gets the sum over the groups of scale times the group's sum. The
// products of a part are added in 16 bits, those of two neighbours to one number: of 64, half are at most 32 * 8 * 127, with what
// is still to come of -8 q, too.
template <int M>
__attribute__((noinline)) void tile_rows(const Bytes& a, int64_t m, const uint8_t* tile, const float* scales, int64_t size, float* out) {
  constexpr int N = TILE / LANES;
  const int8_t* q = a.q + m * a.wide;
  const int32_t* begins = a.sums_of(m);
  const int64_t wide = a.wide, num_parts = a.K / a.size, parts = size / a.size;
  Floats kept[M * N] = {};
  for (int64_t part = 0; part < num_parts; scales += TILE)
    for (int64_t i = 0; i < parts; ++i, ++part) {
      Shorts total[M][N];
      each<M>([&](auto r) {
        const auto begin = (Shorts)_mm256_set1_epi32(begins[r * num_parts + part]);
        each<N>([&](auto n) { total[r][n] = begin; });
      });
      for (const int8_t* end = q + a.size; q < end; q += 4, tile += 4 * TILE) {
        __m256i weights[N];
        each<N>([&](auto n) { weights[n] = pinned(load<__m256i>(tile + n * 4 * LANES)); });
        each<M>([&](auto r) {
          const __m256i four = pinned(_mm256_set1_epi32(load<int32_t>(q + r * wide)));
          each<N>([&](auto n) { total[r][n] += (Shorts)_mm256_maddubs_epi16(weights[n], four); });
        });
      }
      Floats scale[N];
      each<N>([&](auto n) { scale[n] = pinned(load<Floats>(scales + n * LANES)); });
      each<M * N>([&](auto j) {
        const auto found = __builtin_convertvector(in_pairs<LINE / 2>(total[j / N][j % N]), Floats);
        kept[j] = plus_product(kept[j], found, scale[j % N]);
      });
    }
  each<M * N>([&](auto j) { save(out + j / N * WIDTH + j % N * LANES, kept[j]); });
}
#endif

#if defined(__AVX2__)
// Many rows of q, K a multiple of LINE.
void nibble_tiles(const int8_t* q, const float* a, const uint8_t* p, Scales scales, Results to, Shape s, int64_t size) {
  const Bytes rows = bytes_of(q, s.M, s.K, part_of(size), begin_of, s.K % WAY == 0);
  const int64_t N = s.N, K = s.K, num_groups = K / size;
  over_rows((N + WIDTH - 1) / WIDTH, WIDTH * K, [&](int64_t begin, int64_t end) {
    uint8_t* tiles = tile_memory(WIDTH * K);
    std::vector<float> wide(WIDTH * num_groups), floats(num_groups);
    alignas(LINE) float out[ROWS * WIDTH];
    for (int64_t n = begin * WIDTH; n < std::min(end * WIDTH, N); n += WIDTH) {
      const int64_t count = std::min<int64_t>(WIDTH, N - n);
      const auto row = [&](int64_t i) { return std::min(n + i, N - 1); };
      for (int64_t t = 0; t < count; t += TILE) {
        pack(K, [&](int64_t i) { return p + row(t + i) * K / 2; }, tiles + t * K);
        for (int64_t i = 0; i < TILE; ++i) {
          const float* theirs = scales.floats(row(t + i) * num_groups, num_groups, floats.data());
          for (int64_t g = 0; g < num_groups; ++g) wide[t * num_groups + g * TILE + i] = theirs[g];
        }
      }
      in_tiles(s.M, [&](auto M, int64_t m) {
        to.ask<M()>(m, n);
        for (int64_t t = 0; t < count; t += TILE) tile_rows<M()>(rows, m, tiles + t * K, &wide[t * num_groups], size, out + t);
        put_rows(out, WIDTH, M(), count, a + m, to, m, n);
      });
    }
  });
}
#endif

void int4_rows(const int8_t* q, const float* a, const uint8_t* p, Scales scales, Results y, Shape s, int64_t size) {
#if defined(__AVX2__)
  if (s.M > FEW && s.K % LINE == 0) return nibble_tiles(q, a, p, scales, y, s, size);
#endif
#if defined(BYTE_PRODUCTS)
  if (2 * LINE % size == 0 || size % (2 * LINE) == 0)
    return with_type(scales.type, [&](auto* S) { nibble_rows(q, a, p, static_cast<const Pointed<decltype(S)>*>(scales.s), y, s, size); });
#endif
  const auto run = [&](auto BYTES, auto HALVES) {
    (s.M == 1 ? group_rows<BYTES(), HALVES(), 4> : group_rows<BYTES(), HALVES(), 1>)(q, a, p, scales, y, s, size);
  };
#if defined(__AVX2__)
  if (size == 32 && s.K % LINE == 0) return run(std::integral_constant<int, 32>{}, std::true_type{});
#endif
  if (size % LINE == 0 && size != 3 * LINE) return run(std::integral_constant<int, 32>{}, std::false_type{});
  run(std::integral_constant<int, 16>{}, std::false_type{});
}

// ---- products ----------------------------------------------------------------------------------------------------

struct Matrix {  // (N, K): of floats, or of whole numbers with scales
  ScalarType type, scale_type;
  const void *w, *scales;
  int64_t N, K, size;  // `size` 4-bit weights have a scale together
  bool whole() const { return scales != nullptr; }
  int64_t bytes() const { return N * K * (type == ScalarType::Float ? 4 : type == ScalarType::BFloat16 ? 2 : 1) / (size ? 2 : 1); }
};

Matrix matrix(const Tensor& w) {
  const Matrix m{w.scalar_type(), ScalarType::Float, w.data_ptr(), nullptr, w.size(0), w.size(1), 0};
  require(w.is_contiguous() && m.K > 0 && m.K % (CHAINS * LANES) == 0, "linear: bad shapes");
  with_type(w, [](auto*) {});
  return m;
}

Matrix matrix(const Tensor& w, const Tensor& s) {
  require(w.is_contiguous() && s.is_contiguous(), "product_int8, product_int4: not contiguous");
  with_type(s, [](auto*) {});
  Matrix m{w.scalar_type(), s.scalar_type(), w.data_ptr(), s.data_ptr(), w.size(0), w.size(1), 0};
  if (m.type == ScalarType::Char) {
    require(m.K > 0 && s.numel() == m.N, "product_int8: bad shapes");
    return m;
  }
  require(m.type == ScalarType::Int && s.size(0) == m.N, "product_int4: packed int32 and a scale for each group are expected");
  m.K *= 8;
  m.size = m.K / std::max<int64_t>(1, s.size(1));
  require(m.K > 0 && m.size * s.size(1) == m.K && m.size % 32 == 0 && m.size <= 256, "product_int4: bad groups");
  return m;
}

template <class T>
void multiply(const Rows<T>& rows, const Matrix& m, T* y) {
  const Shape s{rows.M, m.N, m.K};
  if (!m.whole()) return with_type(m.type, [&](auto* W) { linear_rows(rows.x, static_cast<const Pointed<decltype(W)>*>(m.w), y, s); });
  const Scales scales{m.scale_type, m.scales};
  const Results to{TYPE<T>, y, m.N};
  if (m.size) return int4_rows(rows.q, rows.a, static_cast<const uint8_t*>(m.w), scales, to, s, m.size);
  int8_rows(rows.q, rows.a, static_cast<const int8_t*>(m.w), scales, to, s);
}

Tensor linear(const Tensor& x, const Tensor& w) {
  const Matrix m = matrix(w);
  require(x.is_contiguous() && x.size(1) == m.K, "linear: bad shapes");
  Tensor y = output(x, x.size(0), m.N);
  with_type(x, [&](auto* X) {
    using T = Pointed<decltype(X)>;
    multiply(Rows<T>{x.size(0), m.K, data<T>(x)}, m, data<T>(y));
  });
  return y;
}

// Of rows of whole numbers; `like` has the type of the result.
Tensor product(const Tensor& q, const Tensor& a, const Matrix& m, const Tensor& like) {
  require(q.is_contiguous() && a.is_contiguous() && q.scalar_type() == ScalarType::Char && a.scalar_type() == ScalarType::Float,
          "product_int8, product_int4: rows of int8 with scales of float32 are expected");
  require(q.size(1) == m.K && a.numel() == q.size(0), "product_int8, product_int4: bad shapes");
  Tensor y = output(like, q.size(0), m.N);
  with_type(y, [&](auto* Y) {
    using T = Pointed<decltype(Y)>;
    multiply(Rows<T>{q.size(0), m.K, nullptr, data<int8_t>(q), data<float>(a)}, m, data<T>(y));
  });
  return y;
}

Tensor product_int8(const Tensor& q, const Tensor& a, const Tensor& w, const Tensor& s, const Tensor& like) {
  require(w.scalar_type() == ScalarType::Char, "product_int8: weights of int8 are expected");
  return product(q, a, matrix(w, s), like);
}

Tensor product_int4(const Tensor& q, const Tensor& a, const Tensor& p, const Tensor& s, const Tensor& like) {
  require(p.scalar_type() == ScalarType::Int, "product_int4: packed int32 is expected");
  return product(q, a, matrix(p, s), like);
}

// ---- between the products ----------------------------------------------------------------------------------------

// K numbers scaled to a root-mean-square of 1, rounded, then times the weight: model/layers.py.
template <class T>
void norm(const T* x, const T* weight, int64_t K, double eps, float* to) {
  Floats squares = {};
  int64_t k = 0;
  for (; k + LANES <= K; k += LANES) {
    const Floats v = widen(x + k);
    squares += v * v;
  }
  float total = sum(squares);
  for (; k < K; ++k) total += float(x[k]) * float(x[k]);
  const float scale = 1 / std::sqrt(total / float(K) + float(eps));
  for (k = 0; k + LANES <= K; k += LANES) save(to + k, rounded<T>(widen(weight + k) * rounded<T>(widen(x + k) * scale)));
  for (; k < K; ++k) to[k] = rounded<T>(float(weight[k]) * rounded<T>(float(x[k]) * scale));
}

template <class T>
auto normed(const T* x, const T* weight, int64_t K, double eps) {
  return [=](int64_t m, float* to) { norm(x + m * K, weight, K, eps, to); };
}

// silu(gate) * up of rows, each rounded as PyTorch rounds it.
template <class T>
auto gated(const T* gates, const T* ups, int64_t K) {
  return [=](int64_t m, float* to) {
    const T *gate = gates + m * K, *up = ups + m * K;
    int64_t k = 0;
    for (; k + LANES <= K; k += LANES) {
      const Floats g = widen(gate + k);
      save(to + k, rounded<T>(rounded<T>(g / (1 + exp(-g))) * widen(up + k)));
    }
    for (; k < K; ++k) to[k] = rounded<T>(rounded<T>(float(gate[k]) / (1 + std::exp(-float(gate[k])))) * float(up[k]));
  };
}

template <bool WHOLE>
auto rms_norm_rows(const Tensor& x, const Tensor& weight, double eps) {
  const int64_t M = x.size(0), K = x.size(1);
  require(x.is_contiguous() && weight.is_contiguous() && alike(x, weight) && weight.numel() == K, "rms_norm: bad arguments");
  const auto row_of = [&](auto* X) { return normed(data<Pointed<decltype(X)>>(x), data<Pointed<decltype(X)>>(weight), K, eps); };
  if constexpr (WHOLE)
    return quantized(x, M, K, row_of);
  else
    return as_they_are(x, M, K, row_of);
}

template <bool WHOLE>
auto swiglu_rows(const Tensor& gate, const Tensor& up) {
  const int64_t M = gate.size(0), K = gate.size(1);
  require(gate.is_contiguous() && up.is_contiguous() && alike(gate, up) && up.size(0) == M && up.size(1) == K,
          "swiglu: bad arguments");
  const auto row_of = [&](auto* X) { return gated(data<Pointed<decltype(X)>>(gate), data<Pointed<decltype(X)>>(up), K); };
  if constexpr (WHOLE)
    return quantized(gate, M, K, row_of);
  else
    return as_they_are(gate, M, K, row_of);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) { return rms_norm_rows<false>(x, weight, eps); }
Tensor swiglu(const Tensor& gate, const Tensor& up) { return swiglu_rows<false>(gate, up); }
std::tuple<Tensor, Tensor> rms_norm_quantize(const Tensor& x, const Tensor& weight, double eps) {
  return rms_norm_rows<true>(x, weight, eps);
}
std::tuple<Tensor, Tensor> swiglu_quantize(const Tensor& gate, const Tensor& up) { return swiglu_rows<true>(gate, up); }

// Heads of x (T, H, Dh) normed, then each pair (i, i + Dh/2) turned by its token's angle; cos and sin (T, Dh/2). The heads of
// token t go to y, to row t of (T, H, Dh), or if there are slots, to row slots[t].
template <class T>
void turn_heads(const T* x, const T* weight, double eps, const T* cos, const T* sin, int64_t num_tokens, int64_t H, int64_t Dh, T* to,
                const int64_t* slots = nullptr) {
  over_rows(num_tokens * H, Dh * 16, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<float> memory;
    memory.resize(Dh);
    float* head = memory.data();
    const int64_t half = Dh / 2;
    for (int64_t i = begin; i < end; ++i) {
      norm(x + i * Dh, weight, Dh, eps, head);
      const T *c = cos + i / H * half, *s = sin + i / H * half;
      T* y = to + ((slots ? slots[i / H] : i / H) * H + i % H) * Dh;
      int64_t d = 0;
      for (; d + LANES <= half; d += LANES) {
        const Floats first = load<Floats>(head + d), second = load<Floats>(head + half + d), cs = widen(c + d), sn = widen(s + d);
        store(y + d, rounded<T>(first * cs) - rounded<T>(second * sn));
        store(y + half + d, rounded<T>(second * cs) + rounded<T>(first * sn));
      }
      for (; d < half; ++d) {
        const float first = head[d], second = head[half + d];
        store(y + d, rounded<T>(first * float(c[d])) - rounded<T>(second * float(s[d])));
        store(y + half + d, rounded<T>(second * float(c[d])) + rounded<T>(first * float(s[d])));
      }
    }
  });
}

Tensor qk_norm_rope(const Tensor& x, const Tensor& weight, double eps, const Tensor& cos, const Tensor& sin) {
  const int64_t T = x.size(0), H = x.size(1), Dh = x.size(2);
  require(x.is_contiguous() && weight.is_contiguous() && cos.is_contiguous() && sin.is_contiguous(), "qk_norm_rope: not contiguous");
  require(alike(x, weight) && alike(x, cos) && alike(x, sin) && weight.numel() == Dh, "qk_norm_rope: bad arguments");
  require(Dh % 2 == 0 && cos.numel() == T * Dh / 2 && sin.numel() == cos.numel(), "qk_norm_rope: bad shapes");
  Tensor y = torch::stable::new_empty(x, {T, H, Dh});
  with_type(x, [&](auto* X) {
    using N = Pointed<decltype(X)>;
    turn_heads(data<N>(x), data<N>(weight), eps, data<N>(cos), data<N>(sin), T, H, Dh, data<N>(y));
  });
  return y;
}

// ---- attention over pages ----------------------------------------------------------------------------------------

// What is known of the pages (P, page, Hkv, Dh) of keys and of values, and which slots a step's tokens go to: each a page's
// number times its size plus a place.
void check_slots(const Tensor& k_pages, const Tensor& v_pages, const Tensor& slots, int64_t num_tokens) {
  const int64_t num_slots = k_pages.size(0) * k_pages.size(1);
  require(k_pages.is_contiguous() && v_pages.is_contiguous() && slots.is_contiguous(), "store_pages: not contiguous");
  require(alike(k_pages, v_pages) && k_pages.numel() == v_pages.numel() && slots.scalar_type() == ScalarType::Long &&
              slots.numel() == num_tokens, "store_pages: bad arguments");
  for (int64_t t = 0; t < num_tokens; ++t)
    require(data<int64_t>(slots)[t] >= 0 && data<int64_t>(slots)[t] < num_slots, "store_pages: no such slot");
}

// Writes rows of k or v (T, width) into their slots.
template <class T>
void store_rows(const T* from, const int64_t* slots, int64_t num_tokens, int64_t width, T* pages) {
  over_rows(num_tokens, width * sizeof(T), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) std::memcpy(pages + slots[t] * width, from + t * width, width * sizeof(T));
  });
}

void store_pages(const Tensor& k, const Tensor& v, const Tensor& k_pages, const Tensor& v_pages, const Tensor& slots) {
  const int64_t T = k.size(0), width = k_pages.size(2) * k_pages.size(3);
  require(k.is_contiguous() && v.is_contiguous(), "store_pages: not contiguous");
  require(alike(k, k_pages) && alike(v, v_pages) && k.numel() == T * width && v.numel() == k.numel(), "store_pages: bad arguments");
  check_slots(k_pages, v_pages, slots, T);
  with_type(k, [&](auto* X) {
    using N = Pointed<decltype(X)>;
    store_rows(data<N>(k), data<int64_t>(slots), T, width, data<N>(k_pages));
    store_rows(data<N>(v), data<int64_t>(slots), T, width, data<N>(v_pages));
  });
}

constexpr int64_t CHUNK = 64;  // keys that are looked at together; a long text's chunks are shared by the threads

#if defined(__AVX512F__)
constexpr int WIDE = 16;         // lanes of the vectors here
constexpr int64_t NEAR = CHUNK;  // keys, or values of so many, that are asked for ahead
#else
constexpr int WIDE = LANES;
constexpr int64_t NEAR = 8;
#endif
constexpr int SHARING = 4;  // query heads that meet a key together, at most: their sums stay in registers
constexpr int64_t COLUMN = 32;  // numbers of a head that are looked at together

using Wide = Vector<float, WIDE>;

// 2 WIDE numbers as two vectors: of floats the first half and the second, of bfloat16 the even ones and the odd ones, which takes
// two instructions. Sums don't mind, if all that they are of lies so; `join` has what is found in order again.
struct Two {
  Wide first, second;
};

inline Two two(const float* from) { return {load<Wide>(from), load<Wide>(from + WIDE)}; }

inline Two two(const BFloat16* from) {
  const auto bits = load<Vector<uint32_t, WIDE>>(from);
  return {(Wide)(bits << 16), (Wide)(bits & 0xffff0000u)};
}

inline void store(float* to, const Two& v) { save(to, v.first), save(to + WIDE, v.second); }

inline void store(BFloat16* to, const Two& v) {
  using Bits = Vector<uint32_t, WIDE>;
  save(to, (Bits)nearest(v.first) >> 16 | (Bits)nearest(v.second));
}

// The sums of WIDE vectors' lanes.
inline Wide sums_of(const Wide* v) {
#if defined(__AVX512F__)
  __m512 four[4], two[2];  // four numbers of four vectors each, two of eight
  for (int i = 0; i < 4; ++i) {
    const __m512 *a = reinterpret_cast<const __m512*>(v) + 4 * i;
    const __m512d first = (__m512d)(_mm512_unpacklo_ps(a[0], a[1]) + _mm512_unpackhi_ps(a[0], a[1]));
    const __m512d second = (__m512d)(_mm512_unpacklo_ps(a[2], a[3]) + _mm512_unpackhi_ps(a[2], a[3]));
    four[i] = (__m512)_mm512_unpacklo_pd(first, second) + (__m512)_mm512_unpackhi_pd(first, second);
  }
  const auto halved = [](__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd); };
  for (int i = 0; i < 2; ++i) two[i] = halved(four[2 * i], four[2 * i + 1]);
  return (Wide)halved(two[0], two[1]);
#elif defined(__AVX2__)
  const auto four = [&](int i) {
    const __m256 *a = reinterpret_cast<const __m256*>(v) + i;
    return _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
  };
  const __m256 a = four(0), b = four(4);
  return (Wide)(_mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31));
#else
  Wide all;
  for (int i = 0; i < WIDE; ++i) all[i] = sum(v[i]);
  return all;
#endif
}

// R queries with one key: sums, whose lanes are still to be added. What lies at `ahead` is asked for meanwhile.
template <int R, class T>
inline void meet(const float* q, const T* key, const T* ahead, int64_t Dh, Wide* to) {
  Wide total[R][2];
  each<R>([&](auto r) { total[r][0] = total[r][1] = Wide{}; });
  for (int64_t d = 0; d < Dh; d += COLUMN) {
    for (size_t line = 0; line < COLUMN * sizeof(T); line += 64) __builtin_prefetch((const char*)(ahead + d) + line, 0, 2);
    each<COLUMN / (2 * WIDE)>([&](auto n) {
      const int64_t i = d + n * 2 * WIDE;
      const Two numbers = two(key + i);
      each<R>([&](auto r) {
        total[r][0] = plus_product(total[r][0], numbers.first, load<Wide>(q + r * Dh + i));
        total[r][1] = plus_product(total[r][1], numbers.second, load<Wide>(q + r * Dh + i + WIDE));
      });
    });
  }
  each<R>([&](auto r) { to[r] = total[r][0] + total[r][1]; });
}

#if defined(__AVX512BF16__)
using Met = BFloat16;  // as what queries meet keys of bfloat16

template <int R>
inline void meet(const BFloat16* q, const BFloat16* key, const BFloat16* ahead, int64_t Dh, Wide* to) {
  __m512 total[R] = {};
  for (int64_t d = 0; d < Dh; d += COLUMN) {
    __builtin_prefetch(ahead + d, 0, 2);
    const auto numbers = load<__m512i>(key + d);
    for (int r = 0; r < R; ++r) total[r] = plus_pairs(total[r], numbers, load<__m512i>(q + r * Dh + d));
  }
  for (int r = 0; r < R; ++r) to[r] = (Wide)total[r];
}
#else
using Met = float;
#endif

// Adds to o the values of `count` keys, COLUMN numbers of each, weighted for R queries by their shares; to zero, where it begins.
template <int R, class T>
inline void gather(bool begins, const float* shares, int64_t stride, const T* v, const T* ahead, const int64_t* rows,
                   const int64_t* rows_ahead, int64_t count, int64_t Dh, float* o) {
  constexpr int ALL = COLUMN / WIDE, N = R > 2 ? 2 : ALL;  // vectors of values, and those whose sums stay in registers
  for (int part = 0; part < ALL; part += N, v += N * WIDE, o += N * WIDE) {
    Wide total[R * N];
    each<R * N>([&](auto j) { total[j] = begins ? Wide{} : load<Wide>(o + j / N * Dh + j % N * WIDE); });
    for (int64_t i = 0; i < count; ++i) {
      if (part == 0)
        for (size_t line = 0; line < COLUMN * sizeof(T); line += 64) __builtin_prefetch((const char*)(ahead + rows_ahead[i]) + line, 0, 2);
      Wide share[R];
      each<R>([&](auto r) { share[r] = pinned(in_all_lanes<Wide>(shares[i * stride + r])); });
      each<N / 2>([&](auto n) {
        const Two numbers = two(v + rows[i] + n * 2 * WIDE);
        each<R>([&](auto r) {
          total[r * N + 2 * n] = plus_product(total[r * N + 2 * n], share[r], numbers.first);
          total[r * N + 2 * n + 1] = plus_product(total[r * N + 2 * n + 1], share[r], numbers.second);
        });
      });
    }
    each<R * N>([&](auto j) { save(o + j / N * Dh + j % N * WIDE, total[j]); });
  }
}

// Calls f(R, head) for pieces of the G query heads of each key head: SHARING of them, and at the end two or one.
template <class F>
inline void in_pieces(int64_t G, const F& f) {
  int64_t g = 0;
  for (; g + SHARING <= G; g += SHARING) f(std::integral_constant<int, SHARING>{}, g);
  if (g + 2 <= G) f(std::integral_constant<int, 2>{}, g), g += 2;
  if (g < G) f(std::integral_constant<int, 1>{}, g);
}

struct Heads {
  int64_t H, Hkv, Dh, page;
  int64_t filled() const { return (H + WIDE - 1) / WIDE * WIDE; }
};

struct Chunk {
  int64_t count, rows[CHUNK];  // where its keys begin, and their values
};

// The queries (H, Dh) of one token over the keys of a chunk: for each head (`filled()` of them) the largest score, the sum of
// e^(score - largest), and the values weighted by these, NEAR keys' at a time. What is asked for meanwhile is what comes NEAR
// keys later: keys, then values, then the next chunk's keys.
template <class Q, class T>
void attend(const Q* q, float scale, const T* k, const T* v, Heads s, const Chunk& chunk, const Chunk& next, float* largest,
            float* total, float* o) {
  const int64_t G = s.H / s.Hkv, filled = s.filled(), count = chunk.count, near = std::min(NEAR, count);
  static thread_local std::vector<float> kept;
  if (int64_t(kept.size()) < filled * (CHUNK + WIDE + 1)) kept.resize(filled * (CHUNK + WIDE + 1));
  float* scores = kept.data();  // (CHUNK, filled)
  Wide* sums = reinterpret_cast<Wide*>(-(-reinterpret_cast<uintptr_t>(scores + filled * CHUNK) & -sizeof(Wide)));
  std::fill(sums + s.H, sums + filled, Wide{});
  for (int64_t i = 0; i < count; ++i) {
    const T *key = k + chunk.rows[i], *ahead = i + near < count ? k + chunk.rows[i + near] : v + chunk.rows[i + near - count];
    for (int64_t h = 0; h < s.Hkv; ++h)
      in_pieces(G, [&](auto R, int64_t g) {
        meet<R()>(q + (h * G + g) * s.Dh, key + h * s.Dh, ahead + h * s.Dh, s.Dh, sums + h * G + g);
      });
    for (int64_t h = 0; h < filled; h += WIDE) save(scores + i * filled + h, sums_of(sums + h) * scale);
  }
  for (int64_t h = 0; h < filled; h += WIDE) {
    Wide most = load<Wide>(scores + h), all = {};
    for (int64_t i = 1; i < count; ++i) {
      const Wide score = load<Wide>(scores + i * filled + h);
      most = score > most ? score : most;
    }
    for (int64_t i = 0; i < count; ++i) {
      const Wide e = exp(load<Wide>(scores + i * filled + h) - most);
      save(scores + i * filled + h, e);
      all += e;
    }
    save(largest + h, most), save(total + h, all);
  }
  for (int64_t i = 0; i < count; i += near) {
    const bool last = i + near >= count;
    const T* then = last ? k : v;
    const int64_t *rows = chunk.rows + i, *ahead = last ? next.rows : rows + near;
    for (int64_t h = 0; h < s.Hkv; ++h)
      for (int64_t d = h * s.Dh; d < (h + 1) * s.Dh; d += COLUMN)
        in_pieces(G, [&](auto R, int64_t g) {
          const int64_t head = h * G + g;
          gather<R()>(i == 0, scores + i * filled + head, filled, v + d, then + d, rows, ahead, std::min(near, count - i), s.Dh,
                      o + head * s.Dh + d - h * s.Dh);
        });
  }
}

struct Query {
  int64_t table, num_keys;  // the row of the block table, and how many keys it sees
};

template <class T>
std::vector<float> in_twos(const T* x, int64_t count) {
  std::vector<float> found(count);
  for (int64_t i = 0; i < count; i += 2 * WIDE) store(&found[i], two(x + i));
  return found;
}

// What the chunks of one head found, brought to one scale and added in their order.
template <class T>
void join(const float* largest, const float* total, const float* o, int64_t num, Heads s, float* space, T* to) {
  const int64_t filled = s.filled();
  float most = -INFINITY, sum_of_all = 0;
  for (int64_t c = 0; c < num; ++c) most = std::max(most, largest[c * filled]);
  std::fill(space, space + s.Dh, 0.0f);
  for (int64_t c = 0; c < num; ++c) {
    const float share = std::exp(largest[c * filled] - most);
    sum_of_all += share * total[c * filled];
    for (int64_t d = 0; d < s.Dh; d += WIDE) save(space + d, load<Wide>(space + d) + share * load<Wide>(o + c * s.H * s.Dh + d));
  }
  for (int64_t d = 0; d < s.Dh; d += 2 * WIDE) store(to + d, Two{load<Wide>(space + d) / sum_of_all, load<Wide>(space + d + WIDE) / sum_of_all});
}

// Memory of the calling thread that is not asked for anew at each call.
float* kept_floats(int64_t count) {
  static thread_local std::vector<float> memory;
  if (int64_t(memory.size()) < count) memory = std::vector<float>(), memory.resize(count);
  return memory.data();
}

// Chunk c of the first `num_keys` keys of a row, which lies in these pages.
Chunk chunk_of(const int32_t* pages, int64_t num_keys, int64_t c, Heads s) {
  Chunk found;
  found.count = std::min(CHUNK, num_keys - c * CHUNK);
  int64_t page = c * CHUNK / s.page, place = c * CHUNK % s.page;
  for (int64_t i = 0; i < CHUNK; ++i) {
    found.rows[i] = i < found.count ? (pages[page] * s.page + place) * s.Hkv * s.Dh : found.rows[0];
    if (++place == s.page) place = 0, ++page;
  }
  return found;
}

// ---- many queries of a row ---------------------------------------------------------------------------------------
//
// A block of a row's queries passes over its keys chunk by chunk, with a running softmax: what was found so far is scaled
// when a larger score comes. A chunk's keys and values are packed once for all of the block's queries and of the heads that
// share them. Each query has its own sums, in the order of the keys, whatever stands beside it in a block (of finite numbers: a
// value that is not, of a token behind it, is multiplied by its share of 0, as by PyTorch).

#if defined(__AVX512BF16__) || (defined(__AVX2__) && !defined(__AVX512F__))
#define QUERY_BLOCKS
#endif

constexpr int64_t ONE_BY_ONE = 4;  // tokens of a row for which packing does not pay
constexpr int QUERIES = 6;         // that are multiplied together with some columns: their sums fill the registers
constexpr int64_t BLOCK = 192;     // queries, about, for which a chunk is packed

// Whether queries of this type are looked at in blocks.
bool in_blocks([[maybe_unused]] ScalarType type) {
#if defined(__AVX512BF16__)
  return type == ScalarType::BFloat16;
#elif defined(QUERY_BLOCKS)
  return true;
#else
  return false;
#endif
}

struct Block {
  const int32_t* pages;
  int64_t h, begin, end, num_keys, limit;  // the key head, the tokens, how many keys the first of them sees, and any at most
};

// The blocks of these rows, the longest first: threads take one after the other.
std::vector<Block> blocks_of(const std::vector<Block>& rows, Heads s) {
  const int64_t size = std::max<int64_t>(1, BLOCK * s.Hkv / s.H);
  std::vector<Block> blocks;
  for (Block b : rows)
    for (int64_t last = (b.end - 1 - b.begin) / size; last >= 0; --last)
      for (int64_t h = 0; h < s.Hkv; ++h) {
        const int64_t begin = b.begin + last * size;
        blocks.push_back({b.pages, h, begin, std::min(begin + size, b.end), b.num_keys + last * size, b.limit});
      }
  return blocks;
}

#if defined(QUERY_BLOCKS)
// What QUERIES queries have found up to some key.
struct Found {
  float largest[QUERIES], share[QUERIES];  // `share`: what remains of it when a larger score has come
  Wide total[QUERIES];
};

#if defined(__AVX512BF16__)
using Part = BFloat16;        // as what queries meet keys, and shares values;
using Packed = uint32_t;      // keys and values themselves: two numbers of a column, side by side
constexpr int64_t PAIRED = 2;
constexpr bool ASKS = false;  // for the next chunk, while queries pass over one

// Adds to `total` QUERIES rows of pairs of bfloat16 times columns of pairs, 16 of them a vector.
template <int N>
inline void pairs_tile(const BFloat16* const* rows, const uint32_t* columns, int64_t stride, int64_t num_pairs, __m512 (*total)[N]) {
  for (int64_t p = 0; p < num_pairs; ++p) {
    __m512i line[N];
    for (int n = 0; n < N; ++n) line[n] = load<__m512i>(columns + p * stride + n * 16);
    for (int m = 0; m < QUERIES; ++m) {
      const __m512i pair = _mm512_set1_epi32(load<int32_t>(rows[m] + 2 * p));
      for (int n = 0; n < N; ++n) total[m][n] = plus_pairs(total[m][n], pair, line[n]);
    }
  }
}

// 16 rows of 16 pairs, turned.
inline void turn(const __m512i* rows, uint32_t* to, int64_t stride) {
  __m512i two[16], four[16];
  for (int i = 0; i < 16; i += 2) {
    two[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    two[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      four[i + 2 * j] = _mm512_unpacklo_epi64(two[i + j], two[i + j + 2]);
      four[i + 2 * j + 1] = _mm512_unpackhi_epi64(two[i + j], two[i + j + 2]);
    }
  for (int c = 0; c < 4; ++c) {
    const __m512i even = _mm512_shuffle_i32x4(four[c], four[4 + c], 0x88), odd = _mm512_shuffle_i32x4(four[c], four[4 + c], 0xdd);
    const __m512i even2 = _mm512_shuffle_i32x4(four[8 + c], four[12 + c], 0x88);
    const __m512i odd2 = _mm512_shuffle_i32x4(four[8 + c], four[12 + c], 0xdd);
    save(to + c * stride, _mm512_shuffle_i32x4(even, even2, 0x88));
    save(to + (4 + c) * stride, _mm512_shuffle_i32x4(odd, odd2, 0x88));
    save(to + (8 + c) * stride, _mm512_shuffle_i32x4(even, even2, 0xdd));
    save(to + (12 + c) * stride, _mm512_shuffle_i32x4(odd, odd2, 0xdd));
  }
}

// A chunk's keys as pairs of neighbours (Dh / 2, CHUNK), its values as pairs of keys (CHUNK / 2, Dh); zeros behind its end.
void pack(const BFloat16* k, const BFloat16* v, const Chunk& chunk, int64_t Dh, uint32_t* keys, uint32_t* values) {
  const auto line = [&](const BFloat16* from, int64_t i, int64_t d) {
    return i < chunk.count ? load<__m512i>(from + chunk.rows[i] + d) : _mm512_setzero_si512();
  };
  for (int64_t i = 0; i < CHUNK; i += 16)
    for (int64_t d = 0; d < Dh; d += COLUMN) {
      __m512i rows[16];
      for (int r = 0; r < 16; ++r) rows[r] = line(k, i + r, d);
      turn(rows, keys + d / 2 * CHUNK + i, CHUNK);
    }
  for (int64_t i = 0; i < CHUNK; i += 2)
    for (int64_t d = 0; d < Dh; d += COLUMN) {
      const __m512i even = line(v, i, d), odd = line(v, i + 1, d);
      for (int side = 0; side < 2; ++side) {
        const __m512i low = _mm512_cvtepu16_epi32(half<__m256i>(even, side)), high = _mm512_cvtepu16_epi32(half<__m256i>(odd, side));
        save(values + i / 2 * Dh + d + side * 16, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
    }
}

// Scores of a chunk's keys, of which query m sees num_keys[m]: their shares (QUERIES, CHUNK) as bfloat16.
__attribute__((noinline)) void shares_of(const BFloat16* const* q, const uint32_t* keys, int64_t Dh, const int64_t* num_keys,
                                         int64_t /*seen*/, Found& found, BFloat16* shares) {
  __m512 scores[QUERIES][4] = {};
  pairs_tile<4>(q, keys, CHUNK, Dh / 2, scores);
  const float scale = 1 / std::sqrt(float(Dh));
  for (int m = 0; m < QUERIES; ++m) {
    const int64_t seen = std::clamp<int64_t>(num_keys[m], 0, CHUNK);
    const uint64_t mask = seen == CHUNK ? ~uint64_t(0) : (uint64_t(1) << seen) - 1;
    __m512 score[4];
    for (int n = 0; n < 4; ++n)
      score[n] = _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), __mmask16(mask >> 16 * n), scores[m][n], _mm512_set1_ps(scale));
    const __m512 most4 = _mm512_max_ps(_mm512_max_ps(score[0], score[1]), _mm512_max_ps(score[2], score[3]));
    const float most = std::max(found.largest[m], _mm512_reduce_max_ps(most4));
    found.share[m] = exp(Floats{} + (found.largest[m] - most))[0];
    found.largest[m] = most;
    Wide sums = {};
    for (int n = 0; n < 4; ++n) {
      const Wide e = (Wide)_mm512_maskz_mov_ps(__mmask16(mask >> 16 * n), (__m512)exp((Wide)score[n] - most));
      sums += e;
      save(shares + m * CHUNK + n * 16, _mm512_cvtneps_pbh((__m512)e));
    }
    found.total[m] = found.total[m] * found.share[m] + sums;
  }
}

// What was found, o (QUERIES, Dh), scaled, and 16 N columns of values added by their shares.
template <int N>
__attribute__((noinline)) void add_values(const BFloat16* const* shares, const uint32_t* values, int64_t num_pairs, int64_t Dh,
                                          const float* share, float* o) {
  __m512 total[QUERIES][N];
  for (int m = 0; m < QUERIES; ++m)
    for (int n = 0; n < N; ++n) total[m][n] = load<__m512>(o + m * Dh + n * 16) * share[m];
  pairs_tile<N>(shares, values, Dh, num_pairs, total);
  for (int m = 0; m < QUERIES; ++m)
    for (int n = 0; n < N; ++n) save(o + m * Dh + n * 16, total[m][n]);
}

// The same for all columns: what `seen` keys have.
void add_all(const BFloat16* const* shares, const uint32_t* values, int64_t seen, int64_t Dh, const float* share, float* o) {
  for (int64_t d = 0; d < Dh;) {
    const bool wide = d + 64 <= Dh;
    (wide ? add_values<4> : add_values<2>)(shares, values + d, (seen + 1) / 2, Dh, share, o + d);
    d += wide ? 64 : 32;
  }
}
#else
using Part = float;
using Packed = float;
constexpr int64_t PAIRED = 1;
constexpr bool ASKS = true;
constexpr int TILE_WIDTH = 2 * WIDE;  // columns of a tile: their sums with QUERIES fill the registers

// Adds QUERIES rows of `count` numbers, which is not 0, times the columns of a tile to sums that `begin` gives; `end` takes them.
template <class Begin, class End>
__attribute__((always_inline)) inline void numbers_tile(const float* const* rows, const float* columns, int64_t count, const Begin& begin,
                                                        const End& end) {
  Wide total[2 * QUERIES];
  each<2 * QUERIES>([&](auto j) { total[j] = begin(j / 2, j % 2 * WIDE); });
  int64_t p = 0;
  do {
    const Wide first = pinned(load<Wide>(columns + p * TILE_WIDTH)), second = pinned(load<Wide>(columns + p * TILE_WIDTH + WIDE));
    each<QUERIES>([&](auto m) {
      const Wide number = pinned(in_all_lanes<Wide>(rows[m][p]));
      total[2 * m] = plus_product(total[2 * m], number, first);
      total[2 * m + 1] = plus_product(total[2 * m + 1], number, second);
    });
  } while (++p < count);
  each<2 * QUERIES>([&](auto j) { end(j / 2, j % 2 * WIDE, total[j]); });
}

// A chunk's keys in tiles (CHUNK / 16, Dh, 16), a column each, behind its end any; its values in tiles (Dh / 16, CHUNK, 16).
template <class T>
void pack(const T* k, const T* v, const Chunk& chunk, int64_t Dh, float* keys, float* values) {
  for (int64_t i = 0; i < CHUNK; i += WIDE)
    for (int64_t d = 0; d < Dh; d += WIDE) {
      __m256i rows[WIDE];
      for (int r = 0; r < WIDE; ++r) rows[r] = (__m256i)widen(k + chunk.rows[i + r] + d);
      transpose(rows);
      for (int r = 0; r < WIDE; ++r) save(keys + i / TILE_WIDTH * TILE_WIDTH * Dh + (d + r) * TILE_WIDTH + i % TILE_WIDTH, rows[r]);
    }
  for (int64_t i = 0; i < chunk.count; ++i)
    for (int64_t d = 0; d < Dh; d += WIDE)
      save(values + d / TILE_WIDTH * TILE_WIDTH * CHUNK + i * TILE_WIDTH + d % TILE_WIDTH, widen(v + chunk.rows[i] + d));
}

// Scores of the first `seen` of a chunk's keys, of which query m sees num_keys[m]: their shares (QUERIES, CHUNK).
__attribute__((noinline)) void shares_of(const float* const* q, const float* keys, int64_t Dh, const int64_t* num_keys, int64_t seen,
                                         Found& found, float* shares) {
  const float scale = 1 / std::sqrt(float(Dh));
  const int64_t filled = (seen + TILE_WIDTH - 1) / TILE_WIDTH * TILE_WIDTH;
  for (int64_t n = 0; n < filled; n += TILE_WIDTH)
    numbers_tile(q, keys + n * Dh, Dh, [](int64_t, int64_t) { return Wide{}; },
                 [&](int64_t m, int64_t i, Wide score) { save(shares + m * CHUNK + n + i, score * scale); });
  const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  for (int m = 0; m < QUERIES; ++m) {
    float* mine = shares + m * CHUNK;
    const int32_t end = std::clamp<int64_t>(num_keys[m], 0, CHUNK);
    Wide most = Wide{} + found.largest[m], sums = {};
    for (int n = 0; n < filled; n += WIDE) {
      const Wide score = lanes + n < end ? load<Wide>(mine + n) : Wide{} - INFINITY;
      most = score > most ? score : most;
    }
    float largest = most[0];
    for (int i = 1; i < WIDE; ++i) largest = std::max(largest, most[i]);
    for (int n = 0; n < filled; n += WIDE) {
      const Wide e = lanes + n < end ? exp(load<Wide>(mine + n) - largest) : Wide{};
      save(mine + n, e);
      sums += e;
    }
    found.share[m] = exp(Wide{} + (found.largest[m] - largest))[0];
    found.largest[m] = largest;
    found.total[m] = found.total[m] * found.share[m] + sums;
  }
}

// What was found, o (QUERIES, Dh), scaled, and the values of `seen` keys added by their shares.
__attribute__((noinline)) void add_all(const float* const* shares, const float* values, int64_t seen, int64_t Dh, const float* share,
                                       float* o) {
  for (int64_t d = 0; d < Dh; d += TILE_WIDTH)
    numbers_tile(shares, values + d * CHUNK, seen, [&](int64_t m, int64_t i) { return load<Wide>(o + m * Dh + d + i) * share[m]; },
                 [&](int64_t m, int64_t i, Wide sums) { save(o + m * Dh + d + i, sums); });
}
#endif

template <class T>
void attend_block(const T* q, const T* k, const T* v, Heads s, Block b, T* y) {
  constexpr bool AS_THEY_ARE = std::is_same_v<T, Part>;
  const int64_t G = s.H / s.Hkv, count = (b.end - b.begin) * G, groups = (count + QUERIES - 1) / QUERIES;
  const int64_t most_keys = std::min(b.num_keys + (b.end - 1 - b.begin), b.limit), packed = CHUNK * s.Dh / PAIRED;
  const auto place = [&](int64_t i) { return ((b.begin + i / G) * s.H + b.h * G + i % G) * s.Dh; };  // of query i, in q and y
  static thread_local std::vector<Packed> memory;
  const size_t needed = 2 * packed + 16 + (groups * QUERIES + (AS_THEY_ARE ? 0 : count)) * s.Dh;
  if (memory.size() < needed) memory.resize(needed);
  Packed* keys = reinterpret_cast<Packed*>(-(-reinterpret_cast<uintptr_t>(memory.data()) & -uintptr_t(64)));
  Packed* values = keys + packed;
  float *o = reinterpret_cast<float*>(values + packed), *copy = o + groups * QUERIES * s.Dh;
  std::fill(o, copy, 0.0f);
  if constexpr (!AS_THEY_ARE)
    for (int64_t i = 0; i < count; ++i)
      for (int64_t d = 0; d < s.Dh; d += LANES) save(copy + i * s.Dh + d, widen(q + place(i) + d));
  const auto query = [&](int64_t i) {
    if constexpr (AS_THEY_ARE)
      return q + place(i);
    else
      return copy + i * s.Dh;
  };
  std::vector<Found> found(groups);
  for (Found& one : found) std::fill(one.largest, one.largest + QUERIES, -INFINITY);
  alignas(64) Part shares[QUERIES * CHUNK];
  const Part *mine[QUERIES], *rows[QUERIES];
  for (int m = 0; m < QUERIES; ++m) rows[m] = shares + m * CHUNK;
  k += b.h * s.Dh, v += b.h * s.Dh;
  Chunk chunk = chunk_of(b.pages, most_keys, 0, s);
  for (int64_t c = 0; c * CHUNK < most_keys; ++c) {
    pack(k, v, chunk, s.Dh, keys, values);
    const bool last = (c + 1) * CHUNK >= most_keys;
    if (!last) chunk = chunk_of(b.pages, most_keys, c + 1, s);
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = last || !ASKS ? CHUNK : CHUNK * g / groups; i < CHUNK * (g + 1) / groups; ++i)
        for (int64_t d = 0; d < s.Dh; d += 64 / sizeof(T)) {
          __builtin_prefetch(k + chunk.rows[i] + d, 0, 2);
          __builtin_prefetch(v + chunk.rows[i] + d, 0, 2);
        }
      int64_t num_keys[QUERIES];
      for (int m = 0; m < QUERIES; ++m) {
        const int64_t i = std::min(g * QUERIES + m, count - 1);  // the last group is filled up with the last query
        mine[m] = query(i);
        num_keys[m] = std::min(b.num_keys + i / G, b.limit) - c * CHUNK;
      }
      const int64_t seen = std::min(num_keys[QUERIES - 1], CHUNK);  // by the last, who sees most
      if (seen <= 0) continue;  // all of it stands before this chunk
      shares_of(mine, keys, s.Dh, num_keys, seen, found[g], shares);
      add_all(rows, values, seen, s.Dh, found[g].share, o + g * QUERIES * s.Dh);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const float total = sum(found[i / QUERIES].total[i % QUERIES]);
    for (int64_t d = 0; d < s.Dh; d += LANES) store(y + place(i) + d, load<Floats>(o + i * s.Dh + d) / total);
  }
}

template <class T>
void attend_blocks(const T* q, const T* k, const T* v, Heads s, const std::vector<Block>& blocks, T* y) {
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) attend_block(q, k, v, s, blocks[i], y);
  };
  if (Team::mine) return over_rows(blocks.size(), GRAIN, run);
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, blocks.size(), 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next++) < int64_t(blocks.size());) run(i, i + 1);
  });
}
#endif

// Who attends to what, the same for all blocks of a step.
struct Plan {
  Heads s;
  int64_t num_tokens, width;   // of the block table (R, width)
  const int32_t* table;
  std::vector<Query> queries;
  std::vector<int64_t> starts;  // of each query's chunks
  std::vector<Block> many;

  int64_t num_chunks() const { return starts.empty() ? 0 : starts.back(); }
  int64_t num_found() const { return num_chunks() * (2 * s.filled() + s.H * s.Dh); }  // numbers
};

// The tokens of row r go from row_starts[r] on, its keys and values lie in the pages block_table[r]. lengths[r] counts the row's
// keys with these tokens', and each token sees those up to its own. Few tokens of a row are attended to one by one, chunks
// shared by the threads; many in blocks, where the processor can.
Plan plan_of(int64_t num_tokens, int64_t H, const Tensor& k_pages, const Tensor& block_table, const Tensor& row_starts,
             const Tensor& lengths) {
  const int64_t num_rows = block_table.size(0), width = block_table.size(1);
  require(k_pages.is_contiguous() && block_table.is_contiguous() && row_starts.is_contiguous() && lengths.is_contiguous(),
          "paged_attention: not contiguous");
  require(block_table.scalar_type() == ScalarType::Int && row_starts.scalar_type() == ScalarType::Int &&
              lengths.scalar_type() == ScalarType::Int && row_starts.numel() == num_rows + 1 && lengths.numel() == num_rows,
          "paged_attention: bad table");
  Plan plan{{H, k_pages.size(2), k_pages.size(3), k_pages.size(1)}, num_tokens, width, data<int32_t>(block_table)};
  const Heads s = plan.s;
  require(s.Dh % COLUMN == 0 && s.Hkv > 0 && s.H % s.Hkv == 0, "paged_attention: bad heads");
  plan.queries.assign(num_tokens, Query{0, 0});
  plan.starts.assign(num_tokens + 1, 0);
  std::vector<Block> many;
  for (int64_t r = 0; r < num_rows; ++r) {
    const int64_t begin = data<int32_t>(row_starts)[r], end = data<int32_t>(row_starts)[r + 1];
    require(0 <= begin && begin <= end && end <= num_tokens, "paged_attention: bad row_starts");
    const int64_t num_keys = data<int32_t>(lengths)[r];
    const int32_t* pages = plan.table + r * width;
    for (int64_t p = 0; begin < end && p < std::min(width, (std::max<int64_t>(num_keys, 1) + s.page - 1) / s.page); ++p)
      require(pages[p] >= 0 && pages[p] < k_pages.size(0), "paged_attention: no such page");
    if (end - begin > ONE_BY_ONE && in_blocks(k_pages.scalar_type()) && num_keys >= end - begin) {
      many.push_back({pages, 0, begin, end, num_keys - (end - 1 - begin), width * s.page});
      continue;
    }
    for (int64_t t = begin; t < end; ++t)
      plan.queries[t] = {r, std::clamp<int64_t>(num_keys - (end - 1 - t), 1, width * s.page)};
  }
  for (int64_t t = 0; t < num_tokens; ++t) plan.starts[t + 1] = plan.starts[t] + (plan.queries[t].num_keys + CHUNK - 1) / CHUNK;
  plan.many = blocks_of(many, s);
  return plan;
}

// q (T, H, Dh) over keys and values in pages (P, page, Hkv, Dh). `found`: room for what the chunks find.
template <class T>
void attend_pages(const Plan& plan, const T* q, const T* k, const T* v, float* found, T* y) {
  const Heads s = plan.s;
#if defined(QUERY_BLOCKS)
  if constexpr (std::is_same_v<T, BFloat16> || std::is_same_v<T, Part>)
    if (!plan.many.empty()) attend_blocks(q, k, v, s, plan.many, y);
#endif
  const int64_t num_tokens = plan.num_tokens, num_chunks = plan.num_chunks(), filled = s.filled();
  if (num_chunks == 0) return;  // all are of rows with many
  float *largest = found, *total = largest + num_chunks * filled, *o = total + num_chunks * filled;
  using Q = std::conditional_t<std::is_same_v<T, BFloat16>, Met, float>;
  std::vector<Q> copy;
  const Q* mine;
  if constexpr (std::is_same_v<T, Q>)
    mine = q;
  else
    mine = (copy = in_twos(q, num_tokens * s.H * s.Dh)).data();
  // From the back: the first share is the larger one, and a row's last chunk the smaller.
  over_rows(num_chunks, CHUNK * s.Hkv * s.Dh * 8, [&](int64_t before, int64_t until) {
    const int64_t begin = num_chunks - until, end = num_chunks - before;
    int64_t t = std::upper_bound(plan.starts.begin(), plan.starts.end(), begin) - plan.starts.begin() - 1;
    const auto chunk_at = [&](int64_t c) {
      return chunk_of(plan.table + plan.queries[t].table * plan.width, plan.queries[t].num_keys, c - plan.starts[t], s);
    };
    Chunk chunk = chunk_at(begin);
    for (int64_t c = begin; c < end; ++c) {
      const int64_t token = t;
      while (c + 1 < end && c + 1 >= plan.starts[t + 1]) ++t;
      const Chunk next = c + 1 < end ? chunk_at(c + 1) : chunk;
      attend(mine + token * s.H * s.Dh, 1 / std::sqrt(float(s.Dh)), k, v, s, chunk, next, largest + c * filled, total + c * filled,
             o + c * s.H * s.Dh);
      chunk = next;
    }
  });
  meet();
  over_rows(num_tokens * s.H, num_chunks / std::max<int64_t>(1, num_tokens) * s.Dh * 4, [&](int64_t begin, int64_t end) {
    std::vector<float> space(s.Dh);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / s.H, h = i % s.H, c = plan.starts[t];
      if (c == plan.starts[t + 1]) continue;  // one of many, already written
      join(largest + c * filled + h, total + c * filled + h, o + (c * s.H + h) * s.Dh, plan.starts[t + 1] - c, s, space.data(),
           y + i * s.Dh);
    }
  });
}

Tensor paged_attention(const Tensor& q, const Tensor& k_pages, const Tensor& v_pages, const Tensor& block_table,
                       const Tensor& row_starts, const Tensor& lengths) {
  require(q.is_contiguous() && v_pages.is_contiguous(), "paged_attention: not contiguous");
  require(alike(q, k_pages) && alike(q, v_pages) && k_pages.size(3) == q.size(2) && v_pages.numel() == k_pages.numel(),
          "paged_attention: bad heads");
  const Plan plan = plan_of(q.size(0), q.size(1), k_pages, block_table, row_starts, lengths);
  Tensor y = torch::stable::new_empty(q, {q.size(0), q.size(1), q.size(2)});
  with_type(q, [&](auto* X) {
    using T = Pointed<decltype(X)>;
    attend_pages(plan, data<T>(q), data<T>(k_pages), data<T>(v_pages), kept_floats(plan.num_found()), data<T>(y));
  });
  return y;
}

bool attends_blocks(const Tensor& q) { return in_blocks(q.scalar_type()); }

// ---- several in one call -------------------------------------------------------------------------------------------
//
// With few rows an operation takes about as long to start as to run, and a step would be Python for a quarter of its time. So a
// block's are two, or those of all blocks are one, and a Team runs it on memory of its own; what is done is said above:
//
//   attention      x + (norm -> q, k, v -> norm and rotation of the heads of q and k -> into the pages -> over them -> o_proj)
//   feed_forward   x + (norm -> gate, up -> silu(gate) up -> down)
//
// Their weights come in this order, each matrix with its scales behind it, if it is one of whole numbers.

struct Attending {
  const void* norm;
  Matrix q, k, v;
  const void *q_norm, *k_norm;
  Matrix o;
  const void *k_pages = nullptr, *v_pages = nullptr;
};

struct Feeding {
  const void* norm;
  Matrix gate, up, down;
};

// Reads weights in their order, for rows of D numbers of a type.
struct Weights {
  const std::vector<Tensor>& all;
  ScalarType type;
  int64_t D;
  size_t next = 0;

  const Tensor& one() {
    require(next < all.size(), "weights are missing");
    return all[next++];
  }
  const void* norm(int64_t size) {
    const Tensor& w = one();
    require(w.is_contiguous() && w.scalar_type() == type && w.numel() == size, "a norm's weight does not fit");
    return w.data_ptr();
  }
  Matrix read(int64_t K) {
    const Tensor& w = one();
    const bool whole = w.scalar_type() == ScalarType::Char || w.scalar_type() == ScalarType::Int;
    const Matrix m = whole ? matrix(w, one()) : matrix(w);
    require(m.K == K, "a matrix does not fit what it reads");
    return m;
  }
  Attending attending(int64_t Dh) {
    const void* first = norm(D);
    const Matrix q = read(D), k = read(D), v = read(D);
    const void *q_norm = norm(Dh), *k_norm = norm(Dh);
    const Matrix o = read(q.N);
    require(k.N == v.N && o.N == D && q.N % Dh == 0, "matrices of heads do not fit together");
    require(q.whole() == k.whole() && q.whole() == v.whole(), "matrices of floats and of whole numbers read other rows");
    return {first, q, k, v, q_norm, k_norm, o};
  }
  Feeding feeding() {
    const void* first = norm(D);
    const Matrix gate = read(D), up = read(D), down = read(gate.N);
    require(up.N == gate.N && down.N == D, "matrices of the network do not fit together");
    require(gate.whole() == up.whole(), "matrices of floats and of whole numbers read other rows");
    return {first, gate, up, down};
  }
  bool left() const { return next < all.size(); }
  void done() const { require(!left(), "there are more weights than matrices and norms"); }
};

// A step through blocks: what all of them read and write.
template <class T>
class Step {
 public:
  static constexpr int64_t PARTS = 20;  // times, at most, that a block goes over rows

  Step(int64_t M, int64_t D, double eps, int64_t widest) : M_(M), D_(D), eps_(eps), room_(M * (D + 3 * widest)) {
    T* next = room_.data();
    const auto take = [&](int64_t width) { return std::exchange(next, next + M_ * width); };
    y_ = take(D_), first_ = take(widest), second_ = take(widest), third_ = take(widest);
    whole_.resize(M_ * widest), scales_.resize(M_);
    q_ = whole_.data(), a_ = scales_.data();
  }

  void attend(const Attending& from, const Plan& plan, const T* cos, const T* sin, const int64_t* slots, float* found, T* x) const {
    const int64_t Dh = plan.s.Dh;
    auto *k_pages = static_cast<T*>(const_cast<void*>(from.k_pages)), *v_pages = static_cast<T*>(const_cast<void*>(from.v_pages));
    const Rows<T> rows = written(D_, from.q, normed(x, static_cast<const T*>(from.norm), D_, eps_), y_);
    multiply(rows, from.q, first_), multiply(rows, from.k, second_), multiply(rows, from.v, third_);
    meet();
    turn_heads(first_, static_cast<const T*>(from.q_norm), eps_, cos, sin, M_, plan.s.H, Dh, first_);
    turn_heads(second_, static_cast<const T*>(from.k_norm), eps_, cos, sin, M_, plan.s.Hkv, Dh, k_pages, slots);
    store_rows(third_, slots, M_, plan.s.Hkv * Dh, v_pages);
    meet();
    attend_pages(plan, first_, k_pages, v_pages, found, second_);
    meet();
    add(from.o.whole() ? written(from.o.K, from.o, copied(second_, from.o.K), y_) : Rows<T>{M_, from.o.K, second_}, from.o, x);
  }

  void feed(const Feeding& from, T* x) const {
    const Rows<T> rows = written(D_, from.gate, normed(x, static_cast<const T*>(from.norm), D_, eps_), y_);
    multiply(rows, from.gate, first_), multiply(rows, from.up, second_);
    meet();
    add(written(from.down.K, from.down, gated(first_, second_, from.down.K), third_), from.down, x);
  }

 private:
  // Rows as `reader` multiplies them.
  template <class Row>
  Rows<T> written(int64_t K, const Matrix& reader, const Row& row, T* floats) const {
    Rows<T> rows{M_, K};
    if (reader.whole())
      rows.q = q_, rows.a = a_;
    else
      rows.x = floats;
    write(rows, row);
    meet();
    return rows;
  }

  void add(const Rows<T>& rows, const Matrix& m, T* x) const {
    multiply(rows, m, y_);
    meet();
    over_rows(M_, D_ * 4, [&](int64_t begin, int64_t end) {
      int64_t i = begin * D_;
      for (; i + LANES <= end * D_; i += LANES) store(x + i, widen(x + i) + widen(y_ + i));
      for (; i < end * D_; ++i) store(x + i, float(x[i]) + float(y_[i]));
    });
    meet();
  }

  int64_t M_, D_;
  double eps_;
  std::vector<T> room_;
  std::vector<int8_t> whole_;
  std::vector<float> scales_;
  T *y_, *first_, *second_, *third_;  // (M, D), and (M, widest) each
  int8_t* q_;                         // (M, widest), and a scale for each row
  float* a_;
};

// ---- a mixture of experts ------------------------------------------------------------------------------------------

struct Pair {
  int64_t expert, token, place;  // the token's choice at `place` of (T, K)
};

struct Hit {  // an expert with the pairs from begin to end
  Matrix gate, up, down;
  int64_t begin, end;
};

// The experts that were chosen, with their rows of pairs, which are sorted by expert. Matrices are those of model/moe.py: gate,
// up and down, either stacked (E, N, K), or of each expert that was chosen, in their order, with scales.
std::vector<Hit> hits_of(const std::vector<Pair>& pairs, const std::vector<Tensor>& matrices, int64_t D) {
  std::vector<Hit> hits;
  size_t next = 0;
  const bool stacked = matrices.size() == 3 && matrices[0].dim() == 3;
  const auto read = [&](int64_t e, int i) {
    if (!stacked) {
      require(next + 1 < matrices.size(), "experts: matrices are missing");
      const Matrix m = matrix(matrices[next], matrices[next + 1]);
      return next += 2, m;
    }
    const Tensor& all = matrices[i];
    require(all.dim() == 3 && all.is_contiguous() && 0 <= e && e < all.size(0), "experts: bad stack");
    Matrix m{all.scalar_type(), ScalarType::Float, nullptr, nullptr, all.size(1), all.size(2), 0};
    require(m.K % (CHAINS * LANES) == 0, "experts: bad shapes");
    with_type(all, [&](auto* W) { m.w = data<Pointed<decltype(W)>>(all) + e * m.N * m.K; });
    return m;
  };
  for (size_t i = 0; i < pairs.size(); ++i) {
    const int64_t e = pairs[i].expert;
    if (i && pairs[i - 1].expert == e) {
      ++hits.back().end;
      continue;
    }
    const Matrix gate = read(e, 0), up = read(e, 1), down = read(e, 2);
    require(gate.K == D && up.K == D && down.N == D && up.N == gate.N && down.K == gate.N, "experts: bad shapes");
    require(hits.empty() || gate.N == hits[0].gate.N, "experts: networks differ in width");
    hits.push_back({gate, up, down, int64_t(i), int64_t(i) + 1});
  }
  require(stacked || next == matrices.size(), "experts: more matrices than experts chosen");
  return hits;
}

// Sorted pairs through their experts, then added for each token in the order of experts.
template <class T>
void through_experts(const T* x, const T* weights, int64_t num_tokens, int64_t D, const std::vector<Pair>& pairs,
                     const std::vector<Hit>& hits, T* out) {
  const int64_t P = pairs.size(), F = hits[0].gate.N;
  const bool whole = hits[0].gate.whole();
  std::vector<T> room(P * (D + 3 * F));
  T *rows = room.data(), *first = rows + P * D, *second = first + P * F, *inner = second + P * F;
  std::vector<int8_t> q(num_tokens * D + P * std::max(D, F));
  std::vector<float> a(num_tokens + P);
  const Rows<T> tokens{num_tokens, D, nullptr, q.data(), a.data()};
  int8_t* pair_q = q.data() + num_tokens * D;
  float* pair_a = a.data() + num_tokens;
  int64_t bytes = 0;
  for (const Hit& hit : hits) bytes += hit.gate.bytes();
  const auto of = [&](const Hit& hit, T* floats, int64_t K) {
    if (!whole) return Rows<T>{hit.end - hit.begin, K, floats + hit.begin * K};
    return Rows<T>{hit.end - hit.begin, K, nullptr, pair_q + hit.begin * K, pair_a + hit.begin};
  };
  std::vector<std::vector<int64_t>> mine(num_tokens);  // each token's pairs
  for (int64_t p = 0; p < P; ++p) mine[pairs[p].token].push_back(p);
  Team(8 + 3 * hits.size(), bytes).run([&] {
    if (whole) write(tokens, copied(x, D)), meet();
    over_rows(P, D * 4, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t t = pairs[p].token;
        if (!whole)
          std::copy_n(x + t * D, D, rows + p * D);
        else
          std::copy_n(tokens.q + t * D, D, pair_q + p * D), pair_a[p] = tokens.a[t];
      }
    });
    meet();
    for (const Hit& hit : hits) {
      multiply(of(hit, rows, D), hit.gate, first + hit.begin * F);
      multiply(of(hit, rows, D), hit.up, second + hit.begin * F);
    }
    meet();
    write(whole ? Rows<T>{P, F, nullptr, pair_q, pair_a} : Rows<T>{P, F, inner}, gated(first, second, F));
    meet();
    for (const Hit& hit : hits) multiply(of(hit, inner, F), hit.down, rows + hit.begin * D);
    meet();
    over_rows(num_tokens, D * 64, [&](int64_t begin, int64_t end) {
      std::vector<float> total(D);
      for (int64_t t = begin; t < end; ++t) {
        std::fill(total.begin(), total.end(), 0.0f);
        for (int64_t p : mine[t]) {
          const float weight = weights[pairs[p].place];
          T* y = rows + p * D;
          for (int64_t d = 0; d < D; d += LANES) store(y + d, widen(y + d) * weight);  // by itself: rounded before it is added
          for (int64_t d = 0; d < D; d += LANES) save(&total[d], load<Floats>(&total[d]) + widen(y + d));
        }
        for (int64_t d = 0; d < D; d += LANES) store(out + t * D + d, load<Floats>(&total[d]));
      }
    });
  });
}

// The K largest of E shares, the first of equals first, and what comes before all: what is no number.
void largest(const float* shares, int64_t E, int64_t K, int64_t* chosen) {
  const auto size = [&](int64_t e) { return std::isnan(shares[e]) ? INFINITY : shares[e]; };
  std::vector<int64_t> order(E);
  for (int64_t e = 0; e < E; ++e) order[e] = e;
  std::partial_sort(order.begin(), order.begin() + K, order.end(), [&](int64_t a, int64_t b) {
    return size(a) > size(b) || (size(a) == size(b) && a < b);
  });
  std::copy_n(order.begin(), K, chosen);
}

// Rows x (M, D) normed; and of each the K experts that the router (E, D) prefers, with their shares, scaled if `sums_to_one`.
std::tuple<Tensor, Tensor, Tensor> route(const Tensor& x, const Tensor& norm_weight, double eps, const Tensor& router, int64_t K,
                                         bool sums_to_one) {
  const int64_t M = x.size(0), D = x.size(1), E = router.size(0);
  const Matrix gate = matrix(router);
  require(x.is_contiguous() && norm_weight.is_contiguous() && alike(x, norm_weight) && norm_weight.numel() == D, "route: bad norm");
  require(gate.K == D && 0 < K && K <= E, "route: bad shapes");
  Tensor h = output(x, M, D), weights = output(x, M, K), chosen = torch::stable::new_empty(x, {M, K}, ScalarType::Long);
  with_type(x, [&](auto* X) {
    using T = Pointed<decltype(X)>;
    std::vector<T> logits(M * E);
    T *rows = data<T>(h), *shares = data<T>(weights);
    Team(6, gate.bytes()).run([&] {
      write(Rows<T>{M, D, rows}, normed(data<T>(x), data<T>(norm_weight), D, eps));
      meet();
      multiply(Rows<T>{M, D, rows}, gate, logits.data());
      meet();
      over_rows(M, E * 64, [&](int64_t begin, int64_t end) {
        std::vector<float> all(E);
        for (int64_t m = begin; m < end; ++m) {
          float most = -INFINITY, total = 0, kept = 0;
          for (int64_t e = 0; e < E; ++e) most = std::max(most, float(logits[m * E + e]));
          for (int64_t e = 0; e < E; ++e) total += all[e] = std::exp(float(logits[m * E + e]) - most);
          for (int64_t e = 0; e < E; ++e) all[e] /= total;
          int64_t* mine = data<int64_t>(chosen) + m * K;
          largest(all.data(), E, K, mine);
          for (int64_t k = 0; k < K; ++k) kept += all[mine[k]];
          for (int64_t k = 0; k < K; ++k) store(shares + m * K + k, sums_to_one ? all[mine[k]] / kept : all[mine[k]]);
        }
      });
    });
  });
  return {h, weights, chosen};
}

Tensor experts(const Tensor& x, const Tensor& weights, const Tensor& chosen, std::vector<Tensor> matrices) {
  const int64_t num_tokens = x.size(0), D = x.size(1), K = chosen.size(1);
  require(x.is_contiguous() && weights.is_contiguous() && chosen.is_contiguous(), "experts: not contiguous");
  require(alike(x, weights) && chosen.scalar_type() == ScalarType::Long && weights.numel() == num_tokens * K &&
              chosen.size(0) == num_tokens && D % LANES == 0, "experts: bad arguments");
  std::vector<Pair> pairs(num_tokens * K);
  for (int64_t i = 0; i < num_tokens * K; ++i) pairs[i] = {data<int64_t>(chosen)[i], i / K, i};
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.expert < b.expert; });
  Tensor y = output(x, num_tokens, D);
  const std::vector<Hit> hits = hits_of(pairs, matrices, D);
  if (hits.empty()) return y;
  for (const Hit& hit : hits)
    require(hit.gate.whole() == hits[0].gate.whole() && hit.up.whole() == hit.gate.whole() && hit.down.whole() == hit.gate.whole(),
            "experts: matrices of floats and of whole numbers read other rows");
  with_type(x, [&](auto* X) {
    using T = Pointed<decltype(X)>;
    through_experts(data<T>(x), data<T>(weights), num_tokens, D, pairs, hits, data<T>(y));
  });
  return y;
}

// ---- blocks --------------------------------------------------------------------------------------------------------

// x (M, D) through blocks, or through one half of them, and if there is a last norm, through that.
Tensor through(const Tensor& x, double eps, const std::vector<Attending>& attending, const std::vector<Feeding>& feeding,
               const Plan& plan, const Tensor* cos, const Tensor* sin, const Tensor* slots, const void* last_norm) {
  const size_t num_blocks = std::max(attending.size(), feeding.size());
  int64_t widest = 0, bytes = 0;
  const auto size = [&](const Matrix& m) { widest = std::max({widest, m.N, m.K}), bytes = std::max(bytes, m.bytes()); };
  for (const Attending& one : attending) size(one.q), size(one.k), size(one.o);
  for (const Feeding& one : feeding) size(one.gate), size(one.down);
  Tensor y = output(x, x.size(0), x.size(1));
  with_type(x, [&](auto* X) {
    using T = Pointed<decltype(X)>;
    T* to = data<T>(y);
    std::copy_n(data<T>(x), x.numel(), to);
    const Step<T> step(x.size(0), x.size(1), eps, widest);
    float* found = kept_floats(plan.num_found());
    Team(num_blocks * Step<T>::PARTS + 1, bytes).run([&] {
      for (size_t n = 0; n < num_blocks; ++n) {
        if (n < attending.size()) step.attend(attending[n], plan, data<T>(*cos), data<T>(*sin), data<int64_t>(*slots), found, to);
        if (n < feeding.size()) step.feed(feeding[n], to);
      }
      const int64_t M = x.size(0), D = x.size(1);
      if (last_norm) write(Rows<T>{M, D, to}, normed(to, static_cast<const T*>(last_norm), D, eps));
    });
  });
  return y;
}

Tensor feed_forward(const Tensor& x, double eps, std::vector<Tensor> weights) {
  require(x.is_contiguous(), "blocks: not contiguous");
  Weights from{weights, x.scalar_type(), x.size(1)};
  const std::vector<Feeding> feeding{from.feeding()};
  from.done();
  return through(x, eps, {}, feeding, Plan{}, nullptr, nullptr, nullptr, nullptr);
}

// Of each block the attention, and if `feeds` the network too.
Tensor attending(const Tensor& x, double eps, const std::vector<Tensor>& weights, const Tensor& cos, const Tensor& sin,
                 const std::vector<Tensor>& k_pages, const std::vector<Tensor>& v_pages, const Tensor& slots, const Tensor& block_table,
                 const Tensor& row_starts, const Tensor& lengths, bool feeds) {
  require(!k_pages.empty() && k_pages.size() == v_pages.size(), "blocks: as many pages of keys as of values are expected");
  const int64_t M = x.size(0), Hkv = k_pages[0].size(2), Dh = k_pages[0].size(3);
  require(x.is_contiguous() && cos.is_contiguous() && sin.is_contiguous(), "blocks: not contiguous");
  require(alike(x, cos) && alike(x, sin) && cos.numel() == M * Dh / 2 && sin.numel() == cos.numel(), "blocks: bad angles");
  Weights from{weights, x.scalar_type(), x.size(1)};
  std::vector<Attending> attending;
  std::vector<Feeding> feeding;
  for (size_t n = 0; n < k_pages.size(); ++n) {
    check_slots(k_pages[n], v_pages[n], slots, M);
    require(alike(x, k_pages[n]) && k_pages[n].size(0) == k_pages[0].size(0) && k_pages[n].size(1) == k_pages[0].size(1) &&
                k_pages[n].size(2) == Hkv && k_pages[n].size(3) == Dh, "blocks: pages differ");
    attending.push_back(from.attending(Dh));
    Attending& last = attending.back();
    require(last.k.N == Hkv * Dh && last.q.N == attending[0].q.N, "blocks: heads differ");
    last.k_pages = k_pages[n].data_ptr(), last.v_pages = v_pages[n].data_ptr();
    if (feeds) feeding.push_back(from.feeding());
  }
  const void* last_norm = from.left() ? from.norm(x.size(1)) : nullptr;
  from.done();
  const Plan plan = plan_of(M, attending[0].q.N / Dh, k_pages[0], block_table, row_starts, lengths);
  return through(x, eps, attending, feeding, plan, &cos, &sin, &slots, last_norm);
}

Tensor attention(const Tensor& x, double eps, std::vector<Tensor> weights, const Tensor& cos, const Tensor& sin, const Tensor& k_pages,
                 const Tensor& v_pages, const Tensor& slots, const Tensor& block_table, const Tensor& row_starts, const Tensor& lengths) {
  return attending(x, eps, weights, cos, sin, {k_pages}, {v_pages}, slots, block_table, row_starts, lengths, false);
}

Tensor all_blocks(const Tensor& x, double eps, std::vector<Tensor> weights, const Tensor& cos, const Tensor& sin,
                  std::vector<Tensor> k_pages, std::vector<Tensor> v_pages, const Tensor& slots, const Tensor& block_table,
                  const Tensor& row_starts, const Tensor& lengths) {
  return attending(x, eps, weights, cos, sin, k_pages, v_pages, slots, block_table, row_starts, lengths, true);
}

}  // namespace

STABLE_TORCH_LIBRARY(pureqwen, m) {
  m.def("linear(Tensor x, Tensor weight) -> Tensor");
  m.def("quantize(Tensor x) -> (Tensor, Tensor)");
  m.def("product_int8(Tensor q, Tensor a, Tensor weight, Tensor scale, Tensor like) -> Tensor");
  m.def("scale_sums(Tensor sums, Tensor a, Tensor scale, Tensor like) -> Tensor");
  m.def("product_int4(Tensor q, Tensor a, Tensor packed, Tensor scale, Tensor like) -> Tensor");
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor");
  m.def("rms_norm_quantize(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)");
  m.def("swiglu(Tensor gate, Tensor up) -> Tensor");
  m.def("swiglu_quantize(Tensor gate, Tensor up) -> (Tensor, Tensor)");
  m.def("qk_norm_rope(Tensor x, Tensor weight, float eps, Tensor cos, Tensor sin) -> Tensor");
  m.def("attention(Tensor x, float eps, Tensor[] weights, Tensor cos, Tensor sin, Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor slots,"
        " Tensor block_table, Tensor row_starts, Tensor lengths) -> Tensor");
  m.def("feed_forward(Tensor x, float eps, Tensor[] weights) -> Tensor");
  m.def("blocks(Tensor x, float eps, Tensor[] weights, Tensor cos, Tensor sin, Tensor(a!)[] k_pages, Tensor(b!)[] v_pages, Tensor slots,"
        " Tensor block_table, Tensor row_starts, Tensor lengths) -> Tensor");
  m.def("route(Tensor x, Tensor weight, float eps, Tensor router, int num_experts, bool sums_to_one) -> (Tensor, Tensor, Tensor)");
  m.def("experts(Tensor x, Tensor weights, Tensor chosen, Tensor[] matrices) -> Tensor");
  m.def("store_pages(Tensor k, Tensor v, Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor slots) -> ()");
  m.def("paged_attention(Tensor q, Tensor k_pages, Tensor v_pages, Tensor block_table, Tensor row_starts, Tensor lengths)"
        " -> Tensor");
  m.def("attends_blocks(Tensor q) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(pureqwen, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("quantize", TORCH_BOX(&quantize));
  m.impl("product_int8", TORCH_BOX(&product_int8));
  m.impl("scale_sums", TORCH_BOX(&scale_sums));
  m.impl("product_int4", TORCH_BOX(&product_int4));
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("rms_norm_quantize", TORCH_BOX(&rms_norm_quantize));
  m.impl("swiglu", TORCH_BOX(&swiglu));
  m.impl("swiglu_quantize", TORCH_BOX(&swiglu_quantize));
  m.impl("qk_norm_rope", TORCH_BOX(&qk_norm_rope));
  m.impl("attention", TORCH_BOX(&attention));
  m.impl("feed_forward", TORCH_BOX(&feed_forward));
  m.impl("blocks", TORCH_BOX(&all_blocks));
  m.impl("route", TORCH_BOX(&route));
  m.impl("experts", TORCH_BOX(&experts));
  m.impl("store_pages", TORCH_BOX(&store_pages));
  m.impl("paged_attention", TORCH_BOX(&paged_attention));
  m.impl("attends_blocks", TORCH_BOX(&attends_blocks));
}
