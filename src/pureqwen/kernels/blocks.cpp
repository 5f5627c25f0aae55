// What stands between the products, attention over a cache, and both together: the halves of a block, all blocks of a step, and a
// mixture of experts. ops.h has a list.

#include "amx.h"
#include "ops.h"

namespace pureqwen {
namespace {

// Uses of kept memory.
struct ForHead;
struct ForScores;
struct ForFound;
struct ForBlock;
struct ForExperts;

// ---- between the products ----------------------------------------------------------------------------------------

// K numbers scaled to a root-mean-square of 1, rounded, then times the weight: model/layers.py.
template <class T>
void norm(const T* x, const T* weight, int64_t K, double eps, float* to) {
  Wide squares[CHAINS] = {};
  int64_t k = 0;
  for (; k + CHAINS * WIDE <= K; k += CHAINS * WIDE)
    each<CHAINS>([&](auto c) {
      const Wide v = wide(x + k + c * WIDE);
      squares[c] = plus_product(squares[c], v, v);
    });
  for (; k + WIDE <= K; k += WIDE) squares[0] = plus_product(squares[0], wide(x + k), wide(x + k));
  float total = sum_in_halves((squares[0] + squares[1]) + (squares[2] + squares[3]));
  for (; k < K; ++k) total += float(x[k]) * float(x[k]);
  const float scale = 1 / std::sqrt(total / float(K) + float(eps));
  for (k = 0; k + WIDE <= K; k += WIDE) save(to + k, rounded<T>(wide(weight + k) * rounded<T>(wide(x + k) * scale)));
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
    for (; k + WIDE <= K; k += WIDE) {
      const Wide g = wide(gate + k);
      save(to + k, rounded<T>(rounded<T>(g / (1 + exp(-g))) * wide(up + k)));
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
    float* head = kept<ForHead, float>(Dh);
    const int64_t half = Dh / 2;
    for (int64_t i = begin; i < end; ++i) {
      norm(x + i * Dh, weight, Dh, eps, head);
      const T *c = cos + i / H * half, *s = sin + i / H * half;
      T* y = to + ((slots ? slots[i / H] : i / H) * H + i % H) * Dh;
      int64_t d = 0;
      for (; d + WIDE <= half; d += WIDE) {
        const Wide first = load<Wide>(head + d), second = load<Wide>(head + half + d), cs = wide(c + d), sn = wide(s + d);
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

constexpr int64_t CHUNK = 64;  // keys that are looked at together; a text's chunks are shared by the threads
constexpr int64_t MOST = 256;  // the same of a long text: what each chunk finds is written, and read again

#if defined(__AVX512F__) && !defined(UNITS_FOR_MATRICES) && !defined(ZEN_5)
constexpr int64_t NEAR = CHUNK;  // keys, or values of so many, that are asked for ahead
#else
constexpr int64_t NEAR = 8;
#endif
#if defined(ZEN_5)
constexpr int LEVEL = 3;  // the cache into which: the first
#else
constexpr int LEVEL = 2;  // the second
#endif
static_assert(MOST % CHUNK == 0 && CHUNK % NEAR == 0);
constexpr int SHARING = 4;  // query heads that meet a key together, at most: their sums stay in registers
constexpr int64_t COLUMN = 32;  // numbers of a head that are looked at together

// Whether values of bfloat16 are added in pairs of keys, by the instruction that adds two products. Intel's is as slow as what it
// takes the place of.
#if defined(__AVX512BF16__) && !defined(UNITS_FOR_MATRICES)
#define VALUES_IN_PAIRS
#endif

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

using pureqwen::store;

inline void store(float* to, const Two& v) { save(to, v.first), save(to + WIDE, v.second); }

#if defined(VALUES_IN_PAIRS)
inline void store(BFloat16* to, const Two& v) {
  save(to, _mm512_packus_epi32(_mm512_srli_epi32((__m512i)nearest(v.first), 16), _mm512_srli_epi32((__m512i)nearest(v.second), 16)));
}
#else
inline void store(BFloat16* to, const Two& v) {
  using Bits = Vector<uint32_t, WIDE>;
  save(to, (Bits)nearest(v.first) >> 16 | (Bits)nearest(v.second));
}
#endif

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

// Asks for COLUMN numbers.
template <class T>
inline void ask(const T* numbers) {
  for (size_t line = 0; line < COLUMN * sizeof(T); line += 64) __builtin_prefetch((const char*)numbers + line, 0, LEVEL);
}

// R queries with one key: sums, whose lanes are still to be added. What lies at `ahead` is asked for meanwhile.
template <int R, class T>
inline void products_with(const float* q, const T* key, const T* ahead, int64_t Dh, Wide* to) {
  Wide total[R][2];
  each<R>([&](auto r) { total[r][0] = total[r][1] = Wide{}; });
  for (int64_t d = 0; d < Dh; d += COLUMN) {
    ask(ahead + d);
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
inline void products_with(const BFloat16* q, const BFloat16* key, const BFloat16* ahead, int64_t Dh, Wide* to) {
  __m512 total[R] = {};
  const auto add = [&](int64_t d) __attribute__((always_inline)) {
    ask(ahead + d);
    const __m512i numbers = pinned(load<__m512i>(key + d));
    each<R>([&](auto r) { total[r] = plus_pairs(total[r], numbers, load<__m512i>(q + r * Dh + d)); });
  };
  if (Dh == 4 * COLUMN)  // which nearly all have
    each<4>([&](auto n) { add(n * COLUMN); });
  else
    for (int64_t d = 0; d < Dh; d += COLUMN) add(d);
  each<R>([&](auto r) { to[r] = (Wide)total[r]; });
}
#else
using Met = float;
#endif

// Adds to o the values of `count` keys, COLUMN numbers of each, weighted for R queries by their shares; to zero, where it begins.
template <int R, class T>
inline void gather(bool begins, const float* shares, int64_t stride, const T* v, const int64_t* rows, int64_t count, int64_t Dh,
                   float* o) {
  constexpr int ALL = COLUMN / WIDE, N = R > 2 ? 2 : ALL;  // vectors of values, and those whose sums stay in registers
  for (int part = 0; part < ALL; part += N, v += N * WIDE, o += N * WIDE) {
    Wide total[R * N];
    each<R * N>([&](auto j) { total[j] = begins ? Wide{} : load<Wide>(o + j / N * Dh + j % N * WIDE); });
    for (int64_t i = 0; i < count; ++i) {
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

#if defined(VALUES_IN_PAIRS)
// The same of bfloat16, LINES times COLUMN numbers of each: two keys at a time, whose shares lie side by side. Of each COLUMN the
// sums are in the order of unpacked halves: `store` has them in order again.
template <int R, int LINES>
inline void gather_pairs(bool begins, const float* shares, int64_t stride, const BFloat16* v, const int64_t* rows, int64_t count,
                         int64_t Dh, float* o) {
  constexpr int N = 2 * LINES;
  __m512 total[R * N];
  each<R * N>([&](auto j) { total[j] = begins ? _mm512_setzero_ps() : load<__m512>(o + j / N * Dh + j % N * WIDE); });
  const auto add = [&](const BFloat16* first, const float* pairs, auto second) __attribute__((always_inline)) {
    __m512i two[N];
    each<LINES>([&](auto n) {
      const __m512i a = load<__m512i>(first + n * COLUMN), b = second(n);
      two[2 * n] = pinned(_mm512_unpacklo_epi16(a, b)), two[2 * n + 1] = pinned(_mm512_unpackhi_epi16(a, b));
    });
    each<R>([&](auto r) {
      const __m512i share = pinned(_mm512_set1_epi32(load<int32_t>(pairs + r)));
      each<N>([&](auto n) { total[r * N + n] = plus_pairs(total[r * N + n], two[n], share); });
    });
  };
  int64_t i = 0;
  for (; i + 2 <= count; i += 2, shares += stride) {
    const BFloat16* next = v + rows[i + 1];
    add(v + rows[i], shares, [&](auto n) { return load<__m512i>(next + n * COLUMN); });
  }
  if (i < count) add(v + rows[i], shares, [](auto) { return _mm512_setzero_si512(); });
  each<R * N>([&](auto j) { save(o + j / N * Dh + j % N * WIDE, total[j]); });
}

// Of two keys the shares of 16 heads, rounded, side by side.
inline __m512i in_pairs(const Wide& first, const Wide& second) {
  const auto half = [](const Wide& v) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v)); };
  return _mm512_or_si512(half(first), _mm512_slli_epi32(half(second), 16));
}
#endif

// Columns of values that are added together, if there are so many.
template <class T>
constexpr int64_t WIDEST = COLUMN;
#if defined(VALUES_IN_PAIRS)
template <>
constexpr int64_t WIDEST<BFloat16> = 2 * COLUMN;
#endif

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
  int64_t count, rows[MOST];  // where its keys begin, and their values
};

// Asks for numbers of keys in the order of memory, whatever the order in which they are added.
template <class T>
struct Asking {
  const T* from;
  const int64_t* rows;
  int64_t width;  // of a key
  int64_t place = 0;

  void next(int64_t count) {
    while (count > 0) {
      const int64_t some = std::min(count, width - place);
      const T* numbers = from + *rows + place;
#pragma GCC unroll 8
      for (int64_t i = 0; i < some; i += COLUMN) ask(numbers + i);
      count -= some;
      if ((place += some) == width) place = 0, ++rows;
    }
  }
};

// The queries (H, Dh) of one token over the keys of a chunk: for each head (`filled()` of them) the largest score, the sum of
// e^(score - largest), and the values weighted by these, NEAR keys' at a time. What is asked for meanwhile is what comes NEAR
// keys later: keys, then values, then the next chunk's keys.
template <class Q, class T>
void attend(const Q* q, float scale, const T* k, const T* v, Heads s, const Chunk& chunk, const Chunk& next, float* largest,
            float* total, float* o) {
  const int64_t G = s.H / s.Hkv, filled = s.filled(), count = chunk.count, near = std::min(NEAR, count);
  float* scores = kept<ForScores, float>(filled * (MOST + WIDE));  // (count, filled)
  Wide* sums = reinterpret_cast<Wide*>(scores + filled * MOST);
  std::fill(sums + s.H, sums + filled, Wide{});
  for (int64_t i = 0; i < count; ++i) {
    const T *key = k + chunk.rows[i], *ahead = i + near < count ? k + chunk.rows[i + near] : v + chunk.rows[i + near - count];
    in_pieces(G, [&](auto R, int64_t g) {
      for (int64_t h = 0; h < s.Hkv; ++h)
        products_with<R()>(q + (h * G + g) * s.Dh, key + h * s.Dh, ahead + h * s.Dh, s.Dh, sums + h * G + g);
    });
    for (int64_t h = 0; h < filled; h += WIDE) save(scores + i * filled + h, sums_of(sums + h) * scale);
  }
  for (int64_t h = 0; h < filled; h += WIDE) {
    Wide most = load<Wide>(scores + h), all = {};
    for (int64_t i = 1; i < count; ++i) {
      const Wide score = load<Wide>(scores + i * filled + h);
      most = score > most ? score : most;
    }
    const auto share = [&](int64_t i) { return exp(load<Wide>(scores + i * filled + h) - most); };
#if defined(VALUES_IN_PAIRS)
    if constexpr (std::is_same_v<T, BFloat16>)
      for (int64_t i = 0; i < count; i += 2) {
        const Wide first = share(i), second = i + 1 < count ? share(i + 1) : Wide{};
        save(scores + i / 2 * filled + h, in_pairs(first, second));
        all += first + second;
      }
    else
#endif
      for (int64_t i = 0; i < count; ++i) {
        const Wide e = share(i);
        save(scores + i * filled + h, e);
        all += e;
      }
    save(largest + h, most), save(total + h, all);
  }
  for (int64_t i = 0; i < count; i += near) {
    const bool last = i + near >= count;
    const int64_t *rows = chunk.rows + i, num = std::min(near, count - i);
    Asking<T> asking{last ? k : v, last ? next.rows : rows + near, s.Hkv * s.Dh};
    for (int64_t h = 0; h < s.Hkv; ++h)
      for (int64_t d = 0, wide = 0; d < s.Dh; d += wide) {
        const auto add = [&](auto R, int64_t g) {
          const int64_t head = h * G + g;
          const T* values = v + h * s.Dh + d;
          float* to = o + head * s.Dh + d;
#if defined(VALUES_IN_PAIRS)
          if constexpr (std::is_same_v<T, BFloat16>) {
            const auto run = wide > COLUMN ? gather_pairs<R(), 2> : gather_pairs<R(), 1>;
            run(i == 0, scores + i / 2 * filled + head, filled, values, rows, num, s.Dh, to);
          } else
#endif
            gather<R()>(i == 0, scores + i * filled + head, filled, values, rows, num, s.Dh, to);
        };
        wide = d + WIDEST<T> <= s.Dh ? WIDEST<T> : COLUMN;
        asking.next(num * wide);
        in_pieces(G, add);
      }
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

// How many keys of so many are a chunk: as many as leave 64 chunks, or more, for threads to share; CHUNK at least, MOST at most.
int64_t chunk_size(int64_t num_keys) { return std::clamp(num_keys / (64 * CHUNK), int64_t(1), MOST / CHUNK) * CHUNK; }

// Chunk c, of `size` keys, of the first `num_keys` keys of a row, which lies in these pages. Behind its end, up to a multiple of
// CHUNK, its first key is repeated.
Chunk chunk_of(const int32_t* pages, int64_t num_keys, int64_t c, int64_t size, Heads s) {
  Chunk found;
  found.count = std::min(size, num_keys - c * size);
  int64_t page = c * size / s.page, place = c * size % s.page;
  for (int64_t i = 0; i < (found.count + CHUNK - 1) / CHUNK * CHUNK; ++i) {
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
constexpr int QUERIES = 6;         // that are multiplied together with some columns: their sums fill the registers,
constexpr int MANY_QUERIES = 16;   // and with the processor's units for matrices
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
// What N queries have found up to some key.
template <int N>
struct Found {
  float largest[N], share[N];  // `share`: what remains of it when a larger score has come
  Wide total[N];
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

// A chunk's keys as pairs of neighbours (Dh / 2, CHUNK), its values as pairs of keys (CHUNK / 2, Dh); zeros behind its end.
void pack(const BFloat16* k, const BFloat16* v, const Chunk& chunk, int64_t Dh, uint32_t* keys, uint32_t* values) {
  const auto line = [&](const BFloat16* from, int64_t i, int64_t d) {
    return i < chunk.count ? load<__m512i>(from + chunk.rows[i] + d) : _mm512_setzero_si512();
  };
  for (int64_t i = 0; i < CHUNK; i += 16)
    for (int64_t d = 0; d < Dh; d += COLUMN) {
      __m512i rows[16];
      for (int r = 0; r < 16; ++r) rows[r] = line(k, i + r, d);
      transpose(rows);
      for (int r = 0; r < 16; ++r) save(keys + (d / 2 + r) * CHUNK + i, rows[r]);
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

// Products of QUERIES queries with a chunk's keys: (QUERIES, CHUNK).
__attribute__((noinline)) void scores_of(const BFloat16* const* q, const uint32_t* keys, int64_t Dh, float* scores) {
  __m512 total[QUERIES][4] = {};
  pairs_tile<4>(q, keys, CHUNK, Dh / 2, total);
  for (int m = 0; m < QUERIES; ++m)
    for (int n = 0; n < 4; ++n) save(scores + m * CHUNK + n * 16, total[m][n]);
}

// N queries' products with a chunk's keys, of which query m sees num_keys[m]: their shares (N, CHUNK) as bfloat16. The products are
// scaled in their place.
template <int N>
void soften(float* scores, int64_t Dh, const int64_t* num_keys, Found<N>& found, BFloat16* shares) {
  static_assert(N <= WIDE);
  const __m512 scale = _mm512_set1_ps(1 / std::sqrt(float(Dh))), nothing = _mm512_set1_ps(-INFINITY);
  alignas(64) float change[WIDE] = {};
  uint64_t masks[N];
  for (int m = 0; m < N; ++m) {
    const int64_t seen = std::clamp<int64_t>(num_keys[m], 0, CHUNK);
    masks[m] = seen == CHUNK ? ~uint64_t(0) : (uint64_t(1) << seen) - 1;
    __m512 score[4];
    each<4>([&](auto n) {
      score[n] = _mm512_mask_mul_ps(nothing, __mmask16(masks[m] >> 16 * n), load<__m512>(scores + m * CHUNK + n * 16), scale);
      save(scores + m * CHUNK + n * 16, score[n]);
    });
    const __m512 most4 = _mm512_max_ps(_mm512_max_ps(score[0], score[1]), _mm512_max_ps(score[2], score[3]));
    const float most = std::max(found.largest[m], _mm512_reduce_max_ps(most4));
    change[m] = found.largest[m] - most;
    found.largest[m] = most;
  }
  save(change, exp(load<Wide>(change)));  // of all queries at once
  for (int m = 0; m < N; ++m) {
    Wide sums = {};
    each<4>([&](auto n) {
      const Wide score = load<Wide>(scores + m * CHUNK + n * 16);
      const Wide e = (Wide)_mm512_maskz_mov_ps(__mmask16(masks[m] >> 16 * n), (__m512)exp(score - found.largest[m]));
      sums += e;
      save(shares + m * CHUNK + n * 16, _mm512_cvtneps_pbh((__m512)e));
    });
    found.share[m] = change[m];
    found.total[m] = found.total[m] * found.share[m] + sums;
  }
}

// The same at once: of the first QUERIES queries.
void shares_of(const BFloat16* const* q, const uint32_t* keys, int64_t Dh, const int64_t* num_keys, int64_t /*seen*/,
               Found<QUERIES>& found, BFloat16* shares) {
  alignas(64) float scores[QUERIES * CHUNK];
  scores_of(q, keys, Dh, scores);
  soften(scores, Dh, num_keys, found, shares);
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

#if defined(UNITS_FOR_MATRICES)
// Products of MANY_QUERIES queries (16, Dh) with a chunk's keys: (16, CHUNK).
__attribute__((noinline)) void scores_by_units(const BFloat16* q, const uint32_t* keys, int64_t Dh, float* scores) {
  amx::settle();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t d = 0; d < Dh; d += 32) {
    const uint32_t* line = keys + d / 2 * CHUNK;
    _tile_loadd(4, q + d, Dh * 2);
    _tile_loadd(6, line, CHUNK * 4);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, line + 16, CHUNK * 4);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, line + 32, CHUNK * 4);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, line + 48, CHUNK * 4);
    _tile_dpbf16ps(3, 4, 7);
  }
  _tile_stored(0, scores, CHUNK * 4);
  _tile_stored(1, scores + 16, CHUNK * 4);
  _tile_stored(2, scores + 32, CHUNK * 4);
  _tile_stored(3, scores + 48, CHUNK * 4);
}

// What was found, o (16, Dh), scaled, and the values of `seen` keys added by their shares (16, CHUNK), which are 0 behind these.
__attribute__((noinline)) void add_by_units(const BFloat16* shares, const uint32_t* values, int64_t seen, int64_t Dh, const float* share,
                                            float* o) {
  for (int m = 0; m < MANY_QUERIES; ++m)
    for (int64_t d = 0; d < Dh; d += WIDE) save(o + m * Dh + d, load<Wide>(o + m * Dh + d) * share[m]);
  amx::settle();
  for (int64_t d = 0; d < Dh; d += 32) {
    _tile_loadd(0, o + d, Dh * 4);
    _tile_loadd(1, o + d + 16, Dh * 4);
    for (int64_t i = 0; i < seen; i += 32) {
      _tile_loadd(4, shares + i, CHUNK * 2);
      _tile_loadd(6, values + i / 2 * Dh + d, Dh * 4);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, values + i / 2 * Dh + d + 16, Dh * 4);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, o + d, Dh * 4);
    _tile_stored(1, o + d + 16, Dh * 4);
  }
}
#endif
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
                                         Found<QUERIES>& found, float* shares) {
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

// N queries at a time.
template <int N, class T>
void attend_block(const T* q, const T* k, const T* v, Heads s, Block b, T* y) {
  constexpr bool UNITS = N == MANY_QUERIES, AS_THEY_ARE = std::is_same_v<T, Part> && !UNITS;
  const int64_t G = s.H / s.Hkv, count = (b.end - b.begin) * G, groups = (count + N - 1) / N;
  const int64_t most_keys = std::min(b.num_keys + (b.end - 1 - b.begin), b.limit), packed = CHUNK * s.Dh / PAIRED;
  const auto place = [&](int64_t i) { return ((b.begin + i / G) * s.H + b.h * G + i % G) * s.Dh; };  // of query i, in q and y
  Packed* keys = kept<ForBlock, Packed>(2 * packed + groups * N * s.Dh * (AS_THEY_ARE ? 1 : 2));
  Packed* values = keys + packed;
  float* o = reinterpret_cast<float*>(values + packed);
  Part* copy = reinterpret_cast<Part*>(o + groups * N * s.Dh);  // of the queries
  std::fill(o, o + groups * N * s.Dh, 0.0f);
  if constexpr (!AS_THEY_ARE)
    for (int64_t i = 0; i < groups * N; ++i) {
      const T* from = q + place(std::min(i, count - 1));  // the last group is filled up with the last query
      if constexpr (UNITS)
        std::copy_n(from, s.Dh, copy + i * s.Dh);
      else
        for (int64_t d = 0; d < s.Dh; d += WIDE) save(copy + i * s.Dh + d, wide(from + d));
    }
  std::vector<Found<N>> found(groups);
  for (Found<N>& one : found) std::fill(one.largest, one.largest + N, -INFINITY);
  alignas(64) Part shares[N * CHUNK];
  const Part *mine[N], *rows[N];
  for (int m = 0; m < N; ++m) rows[m] = shares + m * CHUNK;
  k += b.h * s.Dh, v += b.h * s.Dh;
  Chunk chunk = chunk_of(b.pages, most_keys, 0, CHUNK, s);
  for (int64_t c = 0; c * CHUNK < most_keys; ++c) {
    pack(k, v, chunk, s.Dh, keys, values);
    const bool last = (c + 1) * CHUNK >= most_keys;
    if (!last) chunk = chunk_of(b.pages, most_keys, c + 1, CHUNK, s);
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = last || !ASKS ? CHUNK : CHUNK * g / groups; i < CHUNK * (g + 1) / groups; ++i)
        for (int64_t d = 0; d < s.Dh; d += 64 / sizeof(T)) {
          __builtin_prefetch(k + chunk.rows[i] + d, 0, 2);
          __builtin_prefetch(v + chunk.rows[i] + d, 0, 2);
        }
      int64_t num_keys[N];
      for (int m = 0; m < N; ++m) {
        const int64_t i = std::min(g * N + m, count - 1);
        if constexpr (AS_THEY_ARE) mine[m] = q + place(i);
        else mine[m] = copy + i * s.Dh;
        num_keys[m] = std::min(b.num_keys + i / G, b.limit) - c * CHUNK;
      }
      const int64_t seen = std::min(num_keys[N - 1], CHUNK);  // by the last, who sees most
      if (seen <= 0) continue;                                // all of it stands before this chunk
      float* sums = o + g * N * s.Dh;
#if defined(UNITS_FOR_MATRICES)
      if constexpr (UNITS) {
        alignas(64) float scores[N * CHUNK];
        scores_by_units(copy + g * N * s.Dh, keys, s.Dh, scores);
        soften(scores, s.Dh, num_keys, found[g], shares);
        add_by_units(shares, values, seen, s.Dh, found[g].share, sums);
        continue;
      }
#endif
      if constexpr (!UNITS) {
        shares_of(mine, keys, s.Dh, num_keys, seen, found[g], shares);
        add_all(rows, values, seen, s.Dh, found[g].share, sums);
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const float total = sum(found[i / N].total[i % N]);
    for (int64_t d = 0; d < s.Dh; d += WIDE) store(y + place(i) + d, load<Wide>(o + i * s.Dh + d) / total);
  }
}

template <class T>
void attend_blocks(const T* q, const T* k, const T* v, Heads s, const std::vector<Block>& blocks, T* y) {
  const auto run = [&](int64_t begin, int64_t end) {
#if defined(UNITS_FOR_MATRICES)
    if constexpr (std::is_same_v<T, BFloat16>)
      if (amx::allowed()) {
        const amx::Tiles tiles;
        for (int64_t i = begin; i < end; ++i) attend_block<MANY_QUERIES>(q, k, v, s, blocks[i], y);
        return;
      }
#endif
    for (int64_t i = begin; i < end; ++i) attend_block<QUERIES>(q, k, v, s, blocks[i], y);
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
  std::vector<int64_t> units;   // CHUNKs of keys before each chunk, and before the end: what threads share
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
  plan.units.assign(1, 0);
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
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int64_t num_keys = plan.queries[t].num_keys, size = chunk_size(num_keys);
    for (int64_t key = 0; key < num_keys; key += size)
      plan.units.push_back(plan.units.back() + (std::min(size, num_keys - key) + CHUNK - 1) / CHUNK);
    plan.starts[t + 1] = plan.units.size() - 1;
  }
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
  // From the back: the first share is the larger one, and a row's last chunk the smaller. Of a share are the chunks that begin in it.
  const std::vector<int64_t>& units = plan.units;
  over_rows(units.back(), CHUNK * s.Hkv * s.Dh * 8, [&](int64_t before, int64_t until) {
    const auto first = [&](int64_t unit) { return std::lower_bound(units.begin(), units.end(), unit) - units.begin(); };
    const int64_t begin = first(units.back() - until), end = first(units.back() - before);
    if (begin == end) return;
    int64_t t = std::upper_bound(plan.starts.begin(), plan.starts.end(), begin) - plan.starts.begin() - 1;
    const auto chunk_at = [&](int64_t c) {
      const Query of = plan.queries[t];
      return chunk_of(plan.table + of.table * plan.width, of.num_keys, c - plan.starts[t], chunk_size(of.num_keys), s);
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
    attend_pages(plan, data<T>(q), data<T>(k_pages), data<T>(v_pages), kept<ForFound, float>(plan.num_found()), data<T>(y));
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
      for (; i + WIDE <= end * D_; i += WIDE) store(x + i, wide(x + i) + wide(y_ + i));
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

constexpr int64_t MANY_PAIRS = 8;  // tokens of an expert, on average, with more than which experts come one by one

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
    require(m.K > 0 && m.K % (CHAINS * LANES) == 0, "experts: bad shapes");
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

// Numbers of y from begin to end, times a token's weight for this expert, added to what the token has so far.
template <class T>
void add_share(T* y, float weight, int64_t begin, int64_t end, float* total) {
  for (int64_t d = begin; d < end; d += WIDE) store(y + d, wide(y + d) * weight);  // by itself: rounded before it is added
  for (int64_t d = begin; d < end; d += WIDE) save(total + d, load<Wide>(total + d) + wide(y + d));
}

// Tokens as experts read them.
template <class T>
struct Tokens {
  const T* x;
  int64_t D;
  bool whole;
  Rows<T> rows;  // if whole numbers

  // Rows of those that stand in `pairs`, from the first on, written to `to`.
  void copy(const std::vector<Pair>& pairs, int64_t first, const Rows<T>& to) const {
    over_rows(to.M, D * 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = pairs[first + i].token;
        if (!whole)
          std::copy_n(x + t * D, D, to.x + i * D);
        else
          std::copy_n(rows.q + t * D, D, to.q + i * D), to.a[i] = rows.a[t];
      }
    });
  }
};

// Memory for rows of so many pairs.
template <class T>
struct Room {
  std::vector<int8_t> q;
  std::vector<float> a;
  T *rows, *first, *second, *inner;

  Room(int64_t num, int64_t D, int64_t F, bool whole) : q(whole ? num * std::max(D, F) : 0), a(whole ? num : 0) {
    rows = kept<ForExperts, T>(num * (D + 3 * F)), first = rows + num * D, second = first + num * F, inner = second + num * F;
  }
  Rows<T> of(T* floats, int64_t begin, int64_t end, int64_t K) {
    if (q.empty()) return {end - begin, K, floats + begin * K};
    return {end - begin, K, nullptr, q.data() + begin * K, a.data() + begin};
  }
};

// Sorted pairs through their experts, then added for each token in the order of experts. Few tokens: all experts' first matrices, then
// all of the second, so that threads meet seldom. Many: one expert after the other, whose rows stay in the cache meanwhile.
template <class T>
void through_experts(const T* x, const T* weights, int64_t num_tokens, int64_t D, const std::vector<Pair>& pairs,
                     const std::vector<Hit>& hits, T* out) {
  const int64_t P = pairs.size(), F = hits[0].gate.N;
  const bool whole = hits[0].gate.whole(), many = P > MANY_PAIRS * int64_t(hits.size());
  std::vector<int8_t> q(whole ? num_tokens * D : 0);
  std::vector<float> a(whole ? num_tokens : 0), totals(num_tokens * D);
  const Tokens<T> tokens{x, D, whole, {num_tokens, D, nullptr, q.data(), a.data()}};
  int64_t bytes = 0, most = 0;
  for (const Hit& hit : hits) bytes += hit.gate.bytes(), most = std::max(most, hit.end - hit.begin);
  Room<T> room(many ? most : P, D, F, whole);
  const auto pass = [&](const Hit* from, const Hit* to) {
    const int64_t first = from->begin, num = to[-1].end - first;
    tokens.copy(pairs, first, room.of(room.rows, 0, num, D)), meet();
    for (const Hit* hit = from; hit < to; ++hit) {
      const Rows<T> rows = room.of(room.rows, hit->begin - first, hit->end - first, D);
      multiply(rows, hit->gate, room.first + (hit->begin - first) * F);
      multiply(rows, hit->up, room.second + (hit->begin - first) * F);
    }
    meet();
    write(room.of(room.inner, 0, num, F), gated(room.first, room.second, F)), meet();
    for (const Hit* hit = from; hit < to; ++hit)
      multiply(room.of(room.inner, hit->begin - first, hit->end - first, F), hit->down, room.rows + (hit->begin - first) * D);
    meet();
    over_rows(D / WIDE, num * WIDE * 8, [&](int64_t begin, int64_t end) {
      for (int64_t p = first; p < first + num; ++p)
        add_share(room.rows + (p - first) * D, weights[pairs[p].place], begin * WIDE, end * WIDE, &totals[pairs[p].token * D]);
    });
    meet();
  };
  Team(8 + 6 * hits.size(), bytes).run([&] {
    if (whole) write(tokens.rows, copied(x, D)), meet();
    const Hit *begin = hits.data(), *end = begin + hits.size();
    for (const Hit* hit = begin; many && hit < end; ++hit) pass(hit, hit + 1);
    if (!many) pass(begin, end);
    over_rows(num_tokens * D / WIDE, WIDE * 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * WIDE; i < end * WIDE; i += WIDE) store(out + i, load<Wide>(&totals[i]));
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
              chosen.size(0) == num_tokens && D % WIDE == 0, "experts: bad arguments");
  std::vector<Pair> pairs(num_tokens * K);
  for (int64_t i = 0; i < num_tokens * K; ++i) pairs[i] = {data<int64_t>(chosen)[i], i / K, i};
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.expert < b.expert; });
  Tensor y = output(x, num_tokens, D);
  const std::vector<Hit> hits = hits_of(pairs, matrices, D);
  if (hits.empty()) return torch::stable::fill_(y, 0.0), y;  // of tokens that chose none
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
    float* found = kept<ForFound, float>(plan.num_found());
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

STABLE_TORCH_LIBRARY_FRAGMENT(pureqwen, m) {
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

}  // namespace pureqwen
