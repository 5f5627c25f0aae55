// Products with the processor's units for matrices (Intel's AMX): of 16 rows by 16 rows at a time, 64 bytes of each.
//
// Weight rows are the first operand, which lies as they do. Rows of x are the second: packed once, four bytes of each of 16 rows beside
// one another. So results come out turned, a weight row's beside one another, and are turned back when they are scaled and stored.
// Sums of bytes are whole and exact, and those of 4 bits go from group to group as elsewhere: both have the bits that products without
// these units have among many rows. A row's sums of bfloat16 have one order here, whatever stands beside it.

#pragma once

#include "ops.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512VNNI__) && defined(__AVX512BF16__) && \
    defined(__AVX512BW__) && defined(__AVX512VBMI__) && defined(__linux__)
#define UNITS_FOR_MATRICES

#include <sys/syscall.h>
#include <unistd.h>

namespace pureqwen {
namespace amx {

constexpr int SIDE = 16;                 // rows of a tile,
constexpr int WIDE = 2 * SIDE;           // and of a strip of weights, or a panel of x: two by two tiles are multiplied at a time
constexpr int64_t LINE = 64;             // bytes of such a row
constexpr int64_t TILE = SIDE * LINE;    // bytes of a tile, and
constexpr int64_t SUMS = SIDE * SIDE;    // sums of one
constexpr int64_t DEPTH = 8;             // lines of a row that are multiplied before the next panel, so that a strip's stay near,
constexpr int64_t SHALLOW = 8;           // and lines of weights of 4 bits, before their sums leave the registers
constexpr int64_t NEAR = 3 << 18;        // bytes of x, about, that stay in the second-level cache while weights pass,
constexpr int64_t LEAST = 2, MOST = 16;  // and panels of it

// Whether the system lets this process have the units' registers: it must be asked, once.
inline bool allowed() {
  constexpr long ASK = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  static const bool yes = syscall(SYS_arch_prctl, ASK, TILES) == 0;
  return yes;
}

// Compilers know of the instructions that load tiles only the address: what was stored before must be in memory by then.
inline void settle() { asm volatile("" ::: "memory"); }

// Tiles 0 to 3 are sums, 4 and 5 weights, 6 and 7 rows of x.
struct alignas(64) Shapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE};
  uint8_t rows[16] = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE};
};
static_assert(sizeof(Shapes) == 64);
constexpr Shapes SHAPES = {};

// While it lives, this thread has tiles of 16 rows of 64 bytes.
class Tiles {
 public:
  Tiles() {
    settle();
    _tile_loadconfig(&SHAPES);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
};

// Uses of kept memory.
struct ForPanels;
struct ForSums;
struct ForScales;
struct ForBytes;  // that were of 4 bits
struct ForEnd;    // weight rows of the last strip, filled up

// ---- rows of x ---------------------------------------------------------------------------------------------------

struct Panels {
  int64_t M, num_tiles, lines;  // rows, tiles of 16 of them (the last filled up with zeros), tiles along each
  const uint8_t* tiles;
  const uint8_t* tile(int64_t i, int64_t line) const { return tiles + (i * lines + line) * TILE; }
};

// M rows, `bytes` each, as `line(row, i)` gives their lines, so many.
template <class Line>
Panels panels_of(const uint8_t* x, int64_t M, int64_t bytes, int64_t lines, const Line& line) {
  const int64_t num_tiles = (M + SIDE - 1) / SIDE;
  uint8_t* memory = kept<ForPanels, uint8_t>(num_tiles * lines * TILE);
  over_own_rows(num_tiles, 4 * SIDE * bytes, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t i = 0; i < lines; ++i) {
        __m512i rows[SIDE];
        for (int64_t r = 0; r < SIDE; ++r) {
          const int64_t m = t * SIDE + r;
          rows[r] = m < M ? line(x + m * bytes, i) : _mm512_setzero_si512();
        }
        transpose(rows);
        for (int64_t r = 0; r < SIDE; ++r) save(memory + (t * lines + i) * TILE + r * LINE, rows[r]);
      }
  });
  return {M, num_tiles, lines, memory};
}

// ---- results -----------------------------------------------------------------------------------------------------

// Sums of 32 weight rows from n on with 16 rows of x from m on, as floats `value(i)` of the i-th weight row: to those of them that are.
template <class Y, class Value>
inline void put_turned(const Value& value, Y* y, int64_t N, int64_t M, int64_t m, int64_t n) {
  const int64_t count = std::min<int64_t>(WIDE, N - n), rows = std::min<int64_t>(SIDE, M - m);
  constexpr int STEP = sizeof(Y) == 2 ? WIDE : SIDE;
  for (int first = 0; first < count; first += STEP) {
    __m512i v[SIDE];
    each<SIDE>([&](auto i) {
      if constexpr (sizeof(Y) == 4) {
        v[i] = (__m512i)value(first + i);
      } else {
        using V = Vector<float, 16>;  // in software, as few rows are rounded
        const auto even = (__m512i)nearest<V>((V)value(2 * i)), odd = (__m512i)nearest<V>((V)value(2 * i + 1));
        v[i] = _mm512_or_si512(_mm512_srli_epi32(even, 16), odd);
      }
    });
    transpose(v);
    const int64_t bytes = std::min<int64_t>(STEP, count - first) * sizeof(Y);
    for (int64_t r = 0; r < rows; ++r) {
      Y* to = y + (m + r) * N + n + first;
      if (bytes == LINE) save(to, v[r]);
      else std::memcpy(to, &v[r], bytes);
    }
  }
}

// ---- weights as they lie -----------------------------------------------------------------------------------------

// `lines` of a strip, 32 weight rows `stride` bytes apart, with as many of one or two tiles of x: added to sums, each tile's behind the
// other's, the first weight rows' before the second's; to none yet where it is the `first`. `ahead`: what is asked for meanwhile.
template <int NUM, class W>
__attribute__((noinline)) void add_lines(const uint8_t* w, int64_t stride, const uint8_t* x, int64_t next, int64_t lines, bool first,
                                         const uint8_t* ahead, int64_t ask, int32_t* sums) {
  settle();
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, LINE);
    _tile_loadd(1, sums + SUMS, LINE);
    if constexpr (NUM > 1) {
      _tile_loadd(2, sums + 2 * SUMS, LINE);
      _tile_loadd(3, sums + 3 * SUMS, LINE);
    }
  }
  const uint8_t* second = w + SIDE * stride;
  for (int64_t i = 0; i < lines; ++i) {
    _tile_loadd(4, w + i * LINE, stride);
    _tile_loadd(5, second + i * LINE, stride);
    _tile_loadd(6, x + i * TILE, LINE);
    if constexpr (NUM > 1) _tile_loadd(7, x + next + i * TILE, LINE);
    if constexpr (sizeof(W) == 1) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 5, 6);
      if constexpr (NUM > 1) {
        _tile_dpbssd(2, 4, 7);
        _tile_dpbssd(3, 5, 7);
      }
    } else {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      if constexpr (NUM > 1) {
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    for (int64_t j = 0; j < ask; ++j, ahead += LINE) __builtin_prefetch(ahead, 0, 2);
  }
  _tile_stored(0, sums, LINE);
  _tile_stored(1, sums + SUMS, LINE);
  if constexpr (NUM > 1) {
    _tile_stored(2, sums + 2 * SUMS, LINE);
    _tile_stored(3, sums + 3 * SUMS, LINE);
  }
}

// x by weights (N, K) of bytes or of bfloat16, K numbers whole lines. `done(m, n, sums)` takes the sums (32, 16) of 32 weight rows from
// n on with 16 rows of x from m on.
template <class W>
void over_strips(const Panels& x, const W* weights, int64_t N, const Function<int64_t, int64_t, const int32_t*>& done) {
  const int64_t lines = x.lines, bytes = lines * LINE;
  over_rows((N + WIDE - 1) / WIDE, WIDE * bytes, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    const int64_t num = (x.num_tiles + 1) / 2, near = std::clamp(NEAR / (WIDE * bytes), LEAST, MOST), pieces = (num + near - 1) / near;
    auto* sums = reinterpret_cast<int32_t*>(kept<ForSums, uint8_t>(4 * TILE * std::min(num, near)));
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = num * piece / pieces, to = num * (piece + 1) / pieces, ask = (WIDE + to - from - 1) / (to - from);
      for (int64_t strip = begin; strip < end; ++strip) {
        const int64_t n = strip * WIDE, count = std::min<int64_t>(WIDE, N - n);
        const auto* w = reinterpret_cast<const uint8_t*>(weights) + n * bytes;
        const uint8_t* ahead = w + WIDE * bytes;
        if (count < WIDE) {  // a tile has 16 rows
          uint8_t* memory = kept<ForEnd, uint8_t>(WIDE * bytes);
          std::memcpy(memory, w, count * bytes);
          std::memset(memory + count * bytes, 0, (WIDE - count) * bytes);
          w = memory;
        }
        for (int64_t line = 0; line < lines; line += DEPTH)
          for (int64_t p = from; p < to; ++p) {
            const int64_t some = std::min(DEPTH, lines - line);
            int32_t* mine = lines > DEPTH ? sums + (p - from) * 4 * SUMS : sums;
            const bool both = 2 * p + 1 < x.num_tiles;
            (both ? add_lines<2, W> : add_lines<1, W>)(w + line * LINE, bytes, x.tile(2 * p, line), lines * TILE, some, line == 0, ahead,
                                                       ask, mine);
            ahead += some * ask * LINE;
            if (line + some < lines) continue;
            done(2 * p * SIDE, n, mine);
            if (both) done((2 * p + 1) * SIDE, n, mine + 2 * SUMS);
          }
      }
    }
  });
}

// ---- weights of 4 bits -------------------------------------------------------------------------------------------

// 64 numbers of a row as its even ones and its odd ones, as weights of 4 bits lie in their bytes.
inline __m512i parted(__m512i numbers) {
  Vector<uint8_t, 64> order;
  for (int i = 0; i < 32; ++i) order[i] = 2 * i, order[32 + i] = 2 * i + 1;
  return _mm512_permutexvar_epi8((__m512i)order, numbers);
}

// Rows of q for weights in groups of `size`. Where groups end in the middle of a line, each half of it is a line, with zeros in the
// place of the other.
inline Panels panels_for_groups(const int8_t* q, int64_t M, int64_t K, int64_t size) {
  const bool halves = size % LINE;
  return panels_of(reinterpret_cast<const uint8_t*>(q), M, K, K / LINE * (halves ? 2 : 1), [=](const uint8_t* row, int64_t i) {
    if (!halves) return parted(load<__m512i>(row + i * LINE));
    return _mm512_maskz_mov_epi8(0x0000ffff0000ffff << i % 2 * 16, parted(load<__m512i>(row + i / 2 * LINE)));
  });
}

// 32 weight rows of K numbers of 4 bits as bytes, `parted`. Meanwhile the next 32 are asked for.
inline void unpack(const uint8_t* const* rows, int64_t K, uint8_t* to) {
  const __m256i mask = _mm256_set1_epi8(15);
  const __m512i eight = _mm512_set1_epi8(8);
  for (int64_t r = 0; r < WIDE; ++r)
    for (int64_t k = 0; k < K; k += LINE) {
      const uint8_t* from = rows[r] + k / 2;
      const __m256i both = load<__m256i>(from);
      const __m512i low = _mm512_castsi256_si512(_mm256_and_si256(both, mask));
      const __m512i all = _mm512_inserti64x4(low, _mm256_and_si256(_mm256_srli_epi16(both, 4), mask), 1);
      if (k % (2 * LINE) == 0) __builtin_prefetch(from + WIDE * K / 2, 0, 2);
      save(to + r * K + k, _mm512_sub_epi8(all, eight));
    }
}

// Sums of groups from `begin` on, so many `lines` of x each, of 16 weight rows with a tile of x, times the group's scales (`WIDE` apart):
// added to `total` (16, 16), to nothing yet where there is none before.
template <bool HALVES>
__attribute__((noinline)) void add_groups(const uint8_t* w, int64_t stride, const uint8_t* x, int64_t begin, int64_t end, int64_t lines,
                                          const float* scales, float* total) {
  alignas(LINE) int32_t sums[2][SUMS];
  __m512 mine[SIDE];
  settle();
  each<SIDE>([&](auto i) { mine[i] = begin ? load<__m512>(total + i * SIDE) : _mm512_setzero_ps(); });
  const auto find = [&](auto which, int64_t g) __attribute__((always_inline)) {
    if constexpr (which == 0) _tile_zero(0);
    else _tile_zero(1);
    for (int64_t line = g * lines; line < (g + 1) * lines; ++line) {
      const uint8_t* weights = w + (HALVES ? line / 2 : line) * LINE;
      if constexpr (which == 0) {
        _tile_loadd(4, weights, stride);
        _tile_loadd(6, x + line * TILE, LINE);
        _tile_dpbssd(0, 4, 6);
      } else {
        _tile_loadd(5, weights, stride);
        _tile_loadd(7, x + line * TILE, LINE);
        _tile_dpbssd(1, 5, 7);
      }
    }
    if constexpr (which == 0) _tile_stored(0, sums[0], LINE);
    else _tile_stored(1, sums[1], LINE);
  };
  const auto add = [&](int which, int64_t g) __attribute__((always_inline)) {
    each<SIDE>([&](auto i) {
      const __m512 found = _mm512_cvtepi32_ps(load<__m512i>(sums[which] + i * SIDE));
      mine[i] = plus_product(mine[i], found, _mm512_set1_ps(scales[g * WIDE + i]));
    });
  };
  int64_t g = begin;
  for (; g + 1 < end; g += 2) {  // while the units multiply a group, the one before is added
    find(std::integral_constant<int, 0>{}, g);
    if (g > begin) add(1, g - 1);
    find(std::integral_constant<int, 1>{}, g + 1);
    add(0, g);
  }
  if (g < end) find(std::integral_constant<int, 0>{}, g);
  if (g > begin) add(1, g - 1);
  if (g < end) add(0, g);
  each<SIDE>([&](auto i) { save(total + i * SIDE, mine[i]); });
}

// q by weights (N, K) of 4 bits in groups of `size`, K whole lines. `scales(n, to)` writes those of the 32 weight rows from n on, group by
// group; `done` takes sums as that of `over_strips`.
inline void over_groups(const Panels& x, const uint8_t* weights, int64_t N, int64_t K, int64_t size, const Function<int64_t, float*>& scales,
                        const Function<int64_t, int64_t, const float*>& done) {
  const bool halves = size % LINE;
  const int64_t num = K / size, lines = halves ? size / 32 : size / LINE, some = std::max<int64_t>(1, SHALLOW * LINE / size);
  over_rows((N + WIDE - 1) / WIDE, WIDE * K, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    const int64_t near = 2 * std::clamp(NEAR / (WIDE * x.lines * LINE), LEAST, MOST), pieces = (x.num_tiles + near - 1) / near;
    auto* totals = reinterpret_cast<float*>(kept<ForSums, uint8_t>(2 * TILE * std::min(x.num_tiles, near)));
    auto* theirs = reinterpret_cast<float*>(kept<ForScales, uint8_t>(WIDE * num * sizeof(float)));
    uint8_t* bytes = kept<ForBytes, uint8_t>(WIDE * K);
    for (int64_t piece = 0; piece < pieces; ++piece)
      for (int64_t n = begin * WIDE; n < std::min(end * WIDE, N); n += WIDE) {
        const uint8_t* rows[WIDE];
        for (int64_t i = 0; i < WIDE; ++i) rows[i] = weights + std::min(n + i, N - 1) * K / 2;
        unpack(rows, K, bytes);
        scales(n, theirs);
        const int64_t from = x.num_tiles * piece / pieces, to = x.num_tiles * (piece + 1) / pieces;
        for (int64_t g = 0; g < num; g += some)
          for (int64_t t = from; t < to; ++t) {
            float* mine = totals + (t - from) * 2 * SUMS;
            for (int side = 0; side < 2; ++side)
              (halves ? add_groups<true> : add_groups<false>)(bytes + side * SIDE * K, K, x.tile(t, 0), g, std::min(g + some, num), lines,
                                                              theirs + side * SIDE, mine + side * SUMS);
            if (g + some >= num) done(t * SIDE, n, mine);
          }
      }
  });
}

}  // namespace amx
}  // namespace pureqwen

#endif
