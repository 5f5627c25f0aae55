// Products of rows with a matrix: of floats, of whole numbers of 8 bits, and of 4 bits with a scale for each group. ops.h has a list.

#include "amx.h"
#include "ops.h"

namespace pureqwen {
namespace {

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define BYTE_PRODUCTS
#endif

// Uses of kept memory.
struct ForTiles;
struct ForColumns;
struct ForRows;    // widened
struct ForPairs;   // rows apart from one another
struct ForGroups;  // scales

// ---- pieces of a product ------------------------------------------------------------------------------------------

struct Shape {
  int64_t M, N, K;
};

// Calls f(R, m) for pieces of M rows, R of them from m on: eight, and at the end four, two or one.
template <class F>
void in_eights(int64_t M, const F& f) {
  int64_t m = 0;
  for (; m + 8 <= M; m += 8) f(std::integral_constant<int, 8>{}, m);
  if (m + 4 <= M) f(std::integral_constant<int, 4>{}, m), m += 4;
  if (m + 2 <= M) f(std::integral_constant<int, 2>{}, m), m += 2;
  if (m < M) f(std::integral_constant<int, 1>{}, m);
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
#if defined(UNITS_FOR_MATRICES) || defined(ZEN_5)
template <int SIDE>
constexpr int64_t AHEAD = 6144 / SIDE;
#elif defined(__AVX512F__)
template <int SIDE>
constexpr int64_t AHEAD = 3072 / SIDE;
#else
template <int SIDE>
constexpr int64_t AHEAD = SIDE == BLOCK_N ? 384 : 3072 / SIDE;
#endif
constexpr int64_t FAR = 8192;           // the same, about, of neighbours that many rows meet: a whole number of fours
constexpr int64_t FEW_PLACED = 4;       // rows of x up to which weight rows are read in several places, with AVX-512
#if defined(UNITS_FOR_MATRICES) || defined(ZEN_5)
constexpr bool FIRST_LEVEL = true;      // whether such rows are asked into the first-level cache
#else
constexpr bool FIRST_LEVEL = false;
#endif
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

// ---- units for matrices ------------------------------------------------------------------------------------------

#if defined(UNITS_FOR_MATRICES)
constexpr int64_t FEW_FOR_UNITS = 4;  // rows of x up to which other products are quicker

// 16 numbers from the m-th of M on, or what is left of them.
inline __m512 some_of(const float* a, int64_t M, int64_t m) { return _mm512_maskz_loadu_ps((1u << std::min<int64_t>(16, M - m)) - 1, a + m); }

void unit_rows(const BFloat16* x, const BFloat16* w, BFloat16* y, Shape s) {
  const auto line = [](const uint8_t* row, int64_t i) { return load<__m512i>(row + i * LINE); };
  const amx::Panels rows = amx::panels_of(reinterpret_cast<const uint8_t*>(x), s.M, s.K * 2, s.K * 2 / LINE, line);
  amx::over_strips(rows, w, s.N, [&](int64_t m, int64_t n, const int32_t* sums) {
    amx::put_turned([&](int i) { return load<__m512>(sums + i * 16); }, y, s.N, s.M, m, n);
  });
}

void unit_rows(const int8_t* q, const float* a, const int8_t* w, Scales scales, Results to, Shape s) {
  const auto line = [](const uint8_t* row, int64_t i) { return load<__m512i>(row + i * LINE); };
  const amx::Panels rows = amx::panels_of(reinterpret_cast<const uint8_t*>(q), s.M, s.K, s.K / LINE, line);
  amx::over_strips(rows, w, s.N, [&](int64_t m, int64_t n, const int32_t* sums) {
    float memory[amx::WIDE] = {}, theirs[amx::WIDE] = {};
    const int64_t count = std::min<int64_t>(amx::WIDE, s.N - n);
    std::copy_n(scales.floats(n, count, memory), count, theirs);
    const __m512 factors = some_of(a, s.M, m);
    const auto value = [&](int i) { return _mm512_cvtepi32_ps(load<__m512i>(sums + i * 16)) * factors * theirs[i]; };
    with_type(to.type, [&](auto* Y) { amx::put_turned(value, static_cast<Pointed<decltype(Y)>*>(to.y), s.N, s.M, m, n); });
  });
}

void unit_rows(const int8_t* q, const float* a, const uint8_t* p, Scales scales, Results to, Shape s, int64_t size) {
  const int64_t num = s.K / size;
  const auto theirs = [&](int64_t n, float* found) {
    std::vector<float> memory(num);
    for (int64_t i = 0; i < amx::WIDE; ++i) {
      const float* row = scales.floats(std::min(n + i, s.N - 1) * num, num, memory.data());
      for (int64_t g = 0; g < num; ++g) found[g * amx::WIDE + i] = row[g];
    }
  };
  amx::over_groups(amx::panels_for_groups(q, s.M, s.K, size), p, s.N, s.K, size, theirs, [&](int64_t m, int64_t n, const float* sums) {
    const __m512 factors = some_of(a, s.M, m);
    const auto value = [&](int i) { return load<__m512>(sums + i * 16) * factors; };
    with_type(to.type, [&](auto* Y) { amx::put_turned(value, static_cast<Pointed<decltype(Y)>*>(to.y), s.N, s.M, m, n); });
  });
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
      ask.with<PLACES, (PLACES > 1 && FIRST_LEVEL ? 3 : 2)>(w[n] + k, n);
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

#if defined(BYTE_PRODUCTS)
constexpr int64_t FEW_PAIRS = 112;  // rows of x up to which weights of bfloat16 are multiplied as they lie

void pair_tiles(const BFloat16* x, const BFloat16* w, BFloat16* y, Shape s);
#endif

// `alike`: with the same sums for a row however many there are.
void linear_rows(const BFloat16* x, const BFloat16* w, BFloat16* y, Shape s, bool alike = false) {
#if defined(UNITS_FOR_MATRICES)
  if ((alike || s.M > FEW_FOR_UNITS) && amx::allowed()) return unit_rows(x, w, y, s);
#endif
#if defined(BYTE_PRODUCTS)
  if (!alike && s.M > FEW_PAIRS) return pair_tiles(x, w, y, s);
#endif
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
    int16_t* weights = kept<ForColumns, int16_t>(COLUMNS * BLOCK_K);
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

struct Bytes {  // rows of q, `wide` apart
  int64_t K, size, wide;
  const int8_t* q;
  std::vector<int8_t> memory;
  std::vector<int32_t> sums;  // (M, K / size): of the numbers of each part of `size`, or what its sums begin at
  const int32_t* sums_of(int64_t m) const { return &sums[m * (K / size)]; }
};

// The rows as they lie, or `copied`: filled up with zeros to whole lines, from a multiple of 64 bytes on.
template <class Sum>
Bytes bytes_of(const int8_t* q, int64_t M, int64_t K, int64_t size, const Sum& sum, bool copied) {
  const int64_t wide = copied ? apart(K) : K;
  Bytes found{K, size, wide, q, std::vector<int8_t>(copied ? M * wide + LINE : 0), std::vector<int32_t>(M * (K / size))};
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

#if defined(BYTE_PRODUCTS)
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
      ask.with<PLACES, (PLACES > 1 && FIRST_LEVEL ? 3 : 2)>(w[n] + k, n);
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

// 64 weights of a row from k on, those of 4 bits as they are stored, with 8 added; those of 8 bits with 128 added.
inline __m512i unsigned_line(const uint8_t* row, int64_t k) {
  const __m256i both = load<__m256i>(row + k / 2), mask = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256(both, mask), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
  const __m256i first = _mm256_unpacklo_epi8(low, high), second = _mm256_unpackhi_epi8(low, high);
  const __m256i lower = _mm256_permute2x128_si256(first, second, 0x20), upper = _mm256_permute2x128_si256(first, second, 0x31);
  return _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
}
inline __m512i unsigned_line(const int8_t* row, int64_t k) { return _mm512_xor_si512(load<__m512i>(row + k), _mm512_set1_epi8(-128)); }

// A tile: TILE weight rows, four bytes of each beside one another, which are `size` long as line(row, k), 64 of them, gives them.
// Meanwhile the next tile is asked for.
template <class Row, class Line>
void pack(int64_t size, const Row& row, const Line& line, uint8_t* tile) {
  constexpr int BITS = std::is_same_v<decltype(row(0)), const int8_t*> ? 8 : 4;
  for (int64_t k = 0; k < size; k += LINE)
    for (int half = 0; half < TILE; half += 16) {
      __m512i rows[16];
      for (int n = 0; n < 16; ++n) rows[n] = line(row(half + n), k);
      for (int n = 0; n < 2 * BITS; ++n) __builtin_prefetch(row(0) + (TILE * (size + k) + half * LINE) * BITS / 8 + n * LINE, 0, 2);
      transpose(rows);
      for (int i = 0; i < 16; ++i) save(tile + k * TILE + i * 4 * TILE + half * 4, rows[i]);
    }
}

template <class Row>
void pack(int64_t K, const Row& row, uint8_t* tile) {
  pack(K, row, [](auto* from, int64_t k) { return unsigned_line(from, k); }, tile);
}

// Calls f(R, m) for pieces of M rows as tiles take them.
template <class F>
void in_tiles(int64_t M, const F& f) {
  int64_t m = 0;
  for (; m + ROWS <= M; m += ROWS) f(std::integral_constant<int, ROWS>{}, m);
  if (m < M) in_eights(M - m, [&](auto R, int64_t r) { f(R, m + r); });
}

inline __m512i plus(__m512i total, __m512i a, __m512i b) { return plus_fours(total, a, b); }
#if defined(__AVX512BF16__)
inline __m512 plus(__m512 total, __m512i a, __m512i b) { return plus_pairs(total, a, b); }
#endif

// `count` bytes of M rows of q, `wide` apart, with as many of a tile, at least four: added to the sums.
template <int M, class Sum>
__attribute__((always_inline)) inline void add_tile(Sum (&total)[M][2], const int8_t* q, int64_t wide, const uint8_t* tile, int64_t count) {
  const int8_t* end = q + count;
  do {
    const __m512i first = pinned(load<__m512i>(tile)), second = pinned(load<__m512i>(tile + LINE));
    each<M>([&](auto r) {
      const __m512i four = pinned(_mm512_set1_epi32(load<int32_t>(q + r * wide)));
      total[r][0] = plus(total[r][0], first, four);
      total[r][1] = plus(total[r][1], second, four);
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
    uint8_t* tile = kept<ForTiles, uint8_t>(TILE * K);
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

#if defined(__AVX512BF16__)
// M rows of x, `wide` bytes apart, with a tile of pairs: out (M, TILE).
template <int M>
__attribute__((noinline)) void pair_tile(const int8_t* x, int64_t wide, const uint8_t* tile, int64_t size, float* out) {
  __m512 total[M][2];
  each<M * 2>([&](auto j) { total[j / 2][j % 2] = _mm512_setzero_ps(); });
  add_tile<M>(total, x, wide, tile, size);
  each<M * 2>([&](auto j) { save(out + j * 16, total[j / 2][j % 2]); });
}

// Many rows of x. A tile of weights is packed once for all of them, and there is no sum of lanes: each result is a lane's.
void pair_tiles(const BFloat16* x, const BFloat16* w, BFloat16* y, Shape s) {
  const int64_t N = s.N, size = s.K * 2, wide = size % WAY ? size : apart(size);
  const int8_t* rows = reinterpret_cast<const int8_t*>(x);
  if (wide > size) {
    int8_t* copy = kept<ForPairs, int8_t>(s.M * wide);
    over_own_rows(s.M, size, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) std::memcpy(copy + m * wide, x + m * s.K, size);
    });
    rows = copy;
  }
  constexpr float ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};  // products are not scaled
  static_assert(std::size(ones) == ROWS);
  over_rows((N + TILE - 1) / TILE, TILE * size, [&](int64_t begin, int64_t end) {
    uint8_t* tile = kept<ForTiles, uint8_t>(TILE * size);
    alignas(LINE) float out[ROWS * TILE];
    const Results to{ScalarType::BFloat16, y, N};
    for (int64_t n = begin * TILE; n < std::min(end * TILE, N); n += TILE) {
      const auto row = [&](int64_t i) { return reinterpret_cast<const int8_t*>(w + std::min(n + i, N - 1) * s.K); };
      pack(size, row, [](const int8_t* from, int64_t k) { return load<__m512i>(from + k); }, tile);
      in_tiles(s.M, [&](auto M, int64_t m) {
        to.ask<M()>(m, n);
        pair_tile<M()>(rows + m * wide, wide, tile, size, out);
        put_rows(out, TILE, M(), std::min<int64_t>(TILE, N - n), ones, to, m, n);
      });
    }
  });
}
#endif
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
    int16_t* tiles = kept<ForTiles, int16_t>(WIDTH * K);
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
#if defined(UNITS_FOR_MATRICES)
  if (s.M > FEW_FOR_UNITS && s.K % LINE == 0 && amx::allowed()) return unit_rows(q, a, w, scales, y, s);
#endif
#if defined(BYTE_PRODUCTS)
  if (s.K <= LONGEST) return (s.M > FEW_BYTES && s.K % LINE == 0 ? byte_tiles : byte_rows)(q, a, w, scales, y, s);
#endif
#if defined(__AVX2__) && !defined(BYTE_PRODUCTS)
  const bool tiles = s.M > MANY_WIDENED && s.K % STEP == 0;
#else
  constexpr bool tiles = false;
#endif
  if (!tiles && (QUICK_BYTES || s.M <= BYTE_ROWS) && s.K % (4 * LANES) == 0) return (s.M <= 2 ? sum_rows<4> : sum_rows<2>)(q, a, w, scales, y, s);
  const int64_t M = s.M, K = s.K, wide = apart(filled(K) * 2) / 2;
  int16_t* rows = kept<ForRows, int16_t>(M * wide);
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

struct Groups {  // rows of q for 4-bit weights, K numbers each, `size` in a group, `num` groups
  int64_t K, size, num, wide;
  std::vector<int8_t> q;       // each row as its even numbers, then its odd ones: as they lie in the weights' halves; `wide` apart
  std::vector<float> balance;  // for each group -8 sum q: a stored weight is 8 too large
};

Groups grouped(const int8_t* q, int64_t M, int64_t K, int64_t size) {
  const int64_t num = K / size, wide = apart(K);
  Groups found{K, size, num, wide, std::vector<int8_t>(M * wide), std::vector<float>(M * num)};
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
    float* memory = kept<ForGroups, float>(BLOCK_N * x.num);
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
      if (alone) one_row<HALVES>(x, top + M - 1, p, fours, scales, memory, all + (M - 1) * COLUMNS);
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
  each<BLOCK_N>([&](auto n) { __builtin_prefetch(scales[n] + SCALES_AHEAD * num_groups); });
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
    uint8_t* tiles = kept<ForTiles, uint8_t>(WIDTH * K);
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
#if defined(UNITS_FOR_MATRICES)
  if (s.M > FEW && s.K % LINE == 0 && amx::allowed()) return unit_rows(q, a, p, scales, y, s, size);
#endif
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
#if !defined(BYTE_PRODUCTS)
#if defined(__AVX2__)
  if (size == 32 && s.K % LINE == 0) return run(std::integral_constant<int, 32>{}, std::true_type{});
#endif
  if (size % LINE == 0 && size != 3 * LINE) return run(std::integral_constant<int, 32>{}, std::false_type{});
#endif
  run(std::integral_constant<int, 16>{}, std::false_type{});
}

}  // namespace

// ---- products -----------------------------------------------------------------------------------------------------

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

template void multiply(const Rows<float>&, const Matrix&, float*);
template void multiply(const Rows<BFloat16>&, const Matrix&, BFloat16*);

namespace {

std::tuple<Tensor, Tensor> quantize(const Tensor& x) {
  require(x.is_contiguous(), "quantize: not contiguous");
  return quantized(x, x.size(0), x.size(1), [&](auto* X) { return copied(data<Pointed<decltype(X)>>(x), x.size(1)); });
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

// linear, with the same sums for a row however many there are.
Tensor linear_alike(const Tensor& x, const Tensor& w) {
#if defined(__AVX512BF16__)
  if (alike(x, w) && w.scalar_type() == ScalarType::BFloat16) {
    const Matrix m = matrix(w);
    require(x.is_contiguous() && x.size(1) == m.K, "linear: bad shapes");
    Tensor y = output(x, x.size(0), m.N);
    linear_rows(data<BFloat16>(x), data<BFloat16>(w), data<BFloat16>(y), {x.size(0), m.N, m.K}, true);
    return y;
  }
#endif
  return linear(x, w);
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

bool multiplies_many(const Tensor&) {
#if defined(UNITS_FOR_MATRICES)
  return amx::allowed();
#else
  return false;
#endif
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pureqwen, m) {
  m.def("multiplies_many(Tensor x) -> bool");
  m.def("linear(Tensor x, Tensor weight) -> Tensor");
  m.def("linear_alike(Tensor x, Tensor weight) -> Tensor");
  m.def("quantize(Tensor x) -> (Tensor, Tensor)");
  m.def("product_int8(Tensor q, Tensor a, Tensor weight, Tensor scale, Tensor like) -> Tensor");
  m.def("scale_sums(Tensor sums, Tensor a, Tensor scale, Tensor like) -> Tensor");
  m.def("product_int4(Tensor q, Tensor a, Tensor packed, Tensor scale, Tensor like) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pureqwen, CPU, m) {
  m.impl("multiplies_many", TORCH_BOX(&multiplies_many));
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_alike", TORCH_BOX(&linear_alike));
  m.impl("quantize", TORCH_BOX(&quantize));
  m.impl("product_int8", TORCH_BOX(&product_int8));
  m.impl("scale_sums", TORCH_BOX(&scale_sums));
  m.impl("product_int4", TORCH_BOX(&product_int4));
}

}  // namespace pureqwen
