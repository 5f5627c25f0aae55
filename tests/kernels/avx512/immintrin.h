// AVX-512 in plain C++, so that what native code has for processors with it runs, and is tested, on those without.
//
// Stands before the compiler's header of this name, which it includes. Each instruction that it names is here, lane by
// lane as Intel's manual of instructions defines it; what that leaves undefined is filled, to be seen. An instruction that is
// missing here does not compile. Which sets of instructions there are is the caller's to say: -DAVX512_VNNI, -DAVX512_BF16, and
// -DAVX512_AMX for units for matrices.

#pragma once
#include_next <immintrin.h>

#include <cstdint>
#include <cstring>

#undef __AVX512F__
#undef __AVX512BW__
#undef __AVX512VL__
#undef __AVX512VNNI__
#undef __AVX512BF16__
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#if defined(AVX512_VNNI)
#define __AVX512VNNI__ 1
#endif
#if defined(AVX512_BF16)
#define __AVX512BF16__ 1
#endif
#undef __AVX512VBMI__
#undef __AMX_INT8__
#undef __AMX_BF16__
#if defined(AVX512_AMX)
#define __AVX512VBMI__ 1
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1
#endif

namespace avx512 {

template <class T, int BYTES = 64>
struct Lanes {
  typedef T type __attribute__((vector_size(BYTES)));
};
template <class T, int BYTES = 64>
using Of = typename Lanes<T, BYTES>::type;

// Lane i is f(i).
template <class V, class F>
inline V lanes(const F& f) {
  V v;
  for (unsigned i = 0; i < sizeof(V) / sizeof(v[0]); ++i) v[i] = f(i);
  return v;
}

template <class To, class From>
inline To widened(const From& v) {  // the rest is undefined
  To to;
  std::memset(&to, 0xa5, sizeof to);
  std::memcpy(&to, &v, sizeof v);
  return to;
}

// Of each 128 bits the lower or upper half of the lanes, those of a and b in turn.
template <class T, bool UPPER, class V>
inline V unpack(const V& a, const V& b) {
  constexpr unsigned N = 16 / sizeof(T);
  const auto x = (Of<T>)a, y = (Of<T>)b;
  return (V)lanes<Of<T>>([&](unsigned i) {
    const unsigned from = i / N * N + i % N / 2 + (UPPER ? N / 2 : 0);
    return i % 2 ? y[from] : x[from];
  });
}

// Two of the 128-bit parts of a, then two of b.
template <class V>
inline V shuffle(const V& a, const V& b, int which) {
  const auto x = (Of<int64_t>)a, y = (Of<int64_t>)b;
  return (V)lanes<Of<int64_t>>([&](unsigned i) {
    const unsigned from = (which >> i / 2 * 2 & 3) * 2 + i % 2;
    return i < 4 ? x[from] : y[from];
  });
}

// Memory is read where the mask has a bit, and nowhere else.
template <class T, class V, class M>
inline V masked(M mask, const void* from) {
  return (V)lanes<Of<T, sizeof(V)>>([&](unsigned i) {
    T value = 0;
    if (mask >> i & 1) std::memcpy(&value, static_cast<const char*>(from) + i * sizeof(T), sizeof(T));
    return value;
  });
}

inline float as_float(uint16_t bfloat16) {  // subnormal ones are zeros
  const uint32_t bits = (bfloat16 & 0x7f80) ? uint32_t(bfloat16) << 16 : uint32_t(bfloat16 & 0x8000) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t as_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return uint16_t(bits >> 16 | 0x40);
  if (!(bits & 0x7f800000)) return uint16_t(bits >> 16 & 0x8000);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline __m512 vdpbf16ps(__m512 total, __m512i a, __m512i b) {
  const auto x = (Of<uint16_t>)a, y = (Of<uint16_t>)b;
  return lanes<__m512>([&](unsigned i) {
    const float odd = __builtin_fmaf(as_float(x[2 * i + 1]), as_float(y[2 * i + 1]), total[i]);
    return __builtin_fmaf(as_float(x[2 * i]), as_float(y[2 * i]), odd);
  });
}

inline __m512i vpdpbusd(__m512i total, __m512i a, __m512i b) {
  const auto t = (Of<int32_t>)total;
  const auto x = (Of<uint8_t>)a;
  const auto y = (Of<int8_t>)b;
  return (__m512i)lanes<Of<int32_t>>([&](unsigned i) {
    int32_t sum = t[i];
    for (unsigned j = 4 * i; j < 4 * i + 4; ++j) sum += int32_t(x[j]) * int32_t(y[j]);
    return sum;
  });
}

inline __m512i setzero_si512() { return __m512i{}; }
inline __m512 setzero_ps() { return __m512{}; }
inline __m512i set1_epi8(int8_t x) { return (__m512i)(Of<int8_t>{} + x); }
inline __m512i set1_epi32(int32_t x) { return (__m512i)(Of<int32_t>{} + x); }
inline __m512 set1_ps(float x) { return lanes<__m512>([&](unsigned) { return x; }); }
inline __m512i and_si512(__m512i a, __m512i b) { return a & b; }
inline __m512i or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i xor_si512(__m512i a, __m512i b) { return a ^ b; }
inline __m512i add_epi32(__m512i a, __m512i b) { return (__m512i)((Of<uint32_t>)a + (Of<uint32_t>)b); }
inline __m512i sub_epi32(__m512i a, __m512i b) { return (__m512i)((Of<uint32_t>)a - (Of<uint32_t>)b); }
inline __m512i slli_epi32(__m512i a, unsigned n) { return (__m512i)((Of<uint32_t>)a << n); }
inline __m512i srli_epi16(__m512i a, unsigned n) { return (__m512i)((Of<uint16_t>)a >> n); }
inline __m512i srli_epi32(__m512i a, unsigned n) { return (__m512i)((Of<uint32_t>)a >> n); }
inline __m512i sub_epi8(__m512i a, __m512i b) { return (__m512i)((Of<uint8_t>)a - (Of<uint8_t>)b); }
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return lanes<__m512>([&](unsigned i) { return __builtin_fmaf(a[i], b[i], c[i]); });
}
inline __m512 max_ps(__m512 a, __m512 b) {
  return lanes<__m512>([&](unsigned i) { return a[i] > b[i] ? a[i] : b[i]; });
}
inline float reduce_max_ps(__m512 a) {
  float most = a[0];
  for (int i = 1; i < 16; ++i) most = a[i] > most ? a[i] : most;
  return most;
}
inline __m512 mask_mul_ps(__m512 other, uint16_t mask, __m512 a, __m512 b) {
  return lanes<__m512>([&](unsigned i) { return mask >> i & 1 ? a[i] * b[i] : other[i]; });
}
inline __m512 maskz_mov_ps(uint16_t mask, __m512 a) {
  return lanes<__m512>([&](unsigned i) { return mask >> i & 1 ? a[i] : 0.0f; });
}
inline __m512i maskz_mov_epi8(uint64_t mask, __m512i a) {
  return (__m512i)lanes<Of<int8_t>>([&](unsigned i) { return mask >> i & 1 ? ((Of<int8_t>)a)[i] : int8_t(0); });
}
inline __m512 cvtepi32_ps(__m512i a) { return (__m512)__builtin_convertvector((Of<int32_t>)a, Of<float>); }
inline __m512i cvtps_epi32(__m512 a) {  // to the nearest, ties to even
  return (__m512i)lanes<Of<int32_t>>([&](unsigned i) {
    return a[i] >= -0x1p31f && a[i] < 0x1p31f ? int32_t(__builtin_rintf(a[i])) : INT32_MIN;
  });
}
inline __m128i cvtepi32_epi8(__m512i a) { return (__m128i)__builtin_convertvector((Of<int32_t>)a, Of<int8_t, 16>); }
inline __m256i cvtepi32_epi16(__m512i a) { return (__m256i)__builtin_convertvector((Of<int32_t>)a, Of<int16_t, 32>); }
inline __m512i packus_epi32(__m512i a, __m512i b) {  // of each 128 bits those of a, then those of b; what does not fit is the nearest that does
  const auto x = (Of<int32_t>)a, y = (Of<int32_t>)b;
  return (__m512i)lanes<Of<uint16_t>>([&](unsigned i) {
    const int32_t wide = i % 8 < 4 ? x[i / 8 * 4 + i % 4] : y[i / 8 * 4 + i % 4];
    return uint16_t(wide < 0 ? 0 : wide > 0xffff ? 0xffff : wide);
  });
}
inline __m512i cvtepu16_epi32(__m256i a) {
  return (__m512i)__builtin_convertvector((Of<uint16_t, 32>)a, Of<uint32_t>);
}
inline __m256i cvtepi16_epi8(__m512i a) { return (__m256i)__builtin_convertvector((Of<int16_t>)a, Of<int8_t, 32>); }
inline Of<uint16_t, 32> cvtneps_pbh(__m512 a) {
  return lanes<Of<uint16_t, 32>>([&](unsigned i) { return as_bfloat16(a[i]); });
}
inline __m512 permutexvar_ps(__m512i order, __m512 a) {
  return lanes<__m512>([&](unsigned i) { return a[((Of<int32_t>)order)[i] & 15]; });
}
inline __m512i permutexvar_epi8(__m512i order, __m512i a) {
  return (__m512i)lanes<Of<int8_t>>([&](unsigned i) { return ((Of<int8_t>)a)[((Of<int8_t>)order)[i] & 63]; });
}
inline __m512i permutexvar_epi16(__m512i order, __m512i a) {
  return (__m512i)lanes<Of<int16_t>>([&](unsigned i) { return ((Of<int16_t>)a)[((Of<int16_t>)order)[i] & 31]; });
}
inline __m512i inserti64x4(__m512i a, __m256i b, int which) {
  return (__m512i)lanes<Of<int64_t>>([&](unsigned i) {
    return int(i / 4) == which ? ((Of<int64_t, 32>)b)[i % 4] : ((Of<int64_t>)a)[i];
  });
}
inline __m256i dpwssd(__m256i total, __m256i a, __m256i b) { return _mm256_add_epi32(total, _mm256_madd_epi16(a, b)); }

// Tiles of 16 rows of 64 bytes, the only ones that are asked for. Before there is a configuration, and after, they can't be used.
struct Tile {
  uint8_t bytes[16][64];
};
inline thread_local Tile tiles[8];
inline thread_local bool configured = false;

inline Tile& tile(int i) {
  if (!configured) __builtin_trap();
  return tiles[i];
}

inline void loadconfig(const void* shapes) {
  const auto* bytes = static_cast<const uint8_t*>(shapes);
  configured = bytes[0] == 1;
  for (int i = 0; i < 8; ++i) configured &= bytes[16 + 2 * i] == 64 && bytes[17 + 2 * i] == 0 && bytes[48 + i] == 16;
  std::memset(tiles, 0, sizeof tiles);
}
inline void release() { configured = false; }
inline void zero(int to) { tile(to) = {}; }
inline void loadd(int to, const void* from, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(tile(to).bytes[i], static_cast<const char*>(from) + i * stride, 64);
}
inline void stored(int from, void* to, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(to) + i * stride, tile(from).bytes[i], 64);
}
inline void dpbssd(int to, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      int32_t sum;
      std::memcpy(&sum, &tile(to).bytes[m][4 * n], 4);
      for (int k = 0; k < 64; ++k) sum += int8_t(tile(a).bytes[m][k]) * int8_t(tile(b).bytes[k / 4][4 * n + k % 4]);
      std::memcpy(&tile(to).bytes[m][4 * n], &sum, 4);
    }
}
inline void dpbf16ps(int to, int a, int b) {
  const auto number = [](const uint8_t* from) {
    uint16_t bits;
    std::memcpy(&bits, from, 2);
    return as_float(bits);
  };
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      float sum, parts[2] = {};
      for (int k = 0; k < 32; ++k)
        parts[k % 2] = __builtin_fmaf(number(&tile(a).bytes[m][2 * k]), number(&tile(b).bytes[k / 2][4 * n + k % 2 * 2]), parts[k % 2]);
      std::memcpy(&sum, &tile(to).bytes[m][4 * n], 4);
      sum += parts[0] + parts[1];
      std::memcpy(&tile(to).bytes[m][4 * n], &sum, 4);
    }
}

}  // namespace avx512

#define _mm512_add_epi32 avx512::add_epi32
#define _mm512_and_si512 avx512::and_si512
#define _mm512_castps256_ps512 avx512::widened<__m512>
#define _mm512_castsi128_si512 avx512::widened<__m512i>
#define _mm512_castsi256_si512 avx512::widened<__m512i>
#define _mm512_cvtepi16_epi8 avx512::cvtepi16_epi8
#define _mm512_cvtepi32_epi16 avx512::cvtepi32_epi16
#define _mm512_cvtepi32_epi8 avx512::cvtepi32_epi8
#define _mm512_cvtepi32_ps avx512::cvtepi32_ps
#define _mm512_cvtepu16_epi32 avx512::cvtepu16_epi32
#define _mm512_cvtneps_pbh avx512::cvtneps_pbh
#define _mm512_cvtps_epi32 avx512::cvtps_epi32
#define _mm512_fmadd_ps avx512::fmadd_ps
#define _mm512_inserti64x4 avx512::inserti64x4
#define _mm512_mask_mul_ps avx512::mask_mul_ps
#define _mm512_maskz_loadu_epi8 avx512::masked<int8_t, __m512i>
#define _mm512_maskz_loadu_ps avx512::masked<float, __m512>
#define _mm512_maskz_mov_epi8 avx512::maskz_mov_epi8
#define _mm512_maskz_mov_ps avx512::maskz_mov_ps
#define _mm512_max_ps avx512::max_ps
#define _mm512_or_si512 avx512::or_si512
#define _mm512_packus_epi32 avx512::packus_epi32
#define _mm512_permutexvar_epi8 avx512::permutexvar_epi8
#define _mm512_permutexvar_epi16 avx512::permutexvar_epi16
#define _mm512_permutexvar_ps avx512::permutexvar_ps
#define _mm512_reduce_max_ps avx512::reduce_max_ps
#define _mm512_set1_epi32 avx512::set1_epi32
#define _mm512_set1_epi8 avx512::set1_epi8
#define _mm512_set1_ps avx512::set1_ps
#define _mm512_setzero_ps avx512::setzero_ps
#define _mm512_setzero_si512 avx512::setzero_si512
#define _mm512_shuffle_f32x4 avx512::shuffle
#define _mm512_shuffle_i32x4 avx512::shuffle
#define _mm512_slli_epi32 avx512::slli_epi32
#define _mm512_srli_epi16 avx512::srli_epi16
#define _mm512_srli_epi32 avx512::srli_epi32
#define _mm512_sub_epi32 avx512::sub_epi32
#define _mm512_sub_epi8 avx512::sub_epi8
#define _mm512_unpackhi_epi16 avx512::unpack<int16_t, true>
#define _mm512_unpackhi_epi32 avx512::unpack<int32_t, true>
#define _mm512_unpackhi_epi64 avx512::unpack<int64_t, true>
#define _mm512_unpackhi_pd avx512::unpack<int64_t, true>
#define _mm512_unpackhi_ps avx512::unpack<int32_t, true>
#define _mm512_unpacklo_epi16 avx512::unpack<int16_t, false>
#define _mm512_unpacklo_epi32 avx512::unpack<int32_t, false>
#define _mm512_unpacklo_epi64 avx512::unpack<int64_t, false>
#define _mm512_unpacklo_pd avx512::unpack<int64_t, false>
#define _mm512_unpacklo_ps avx512::unpack<int32_t, false>
#define _mm512_xor_si512 avx512::xor_si512
#define _mm256_dpwssd_epi32 avx512::dpwssd
#define _mm256_maskz_loadu_ps avx512::masked<float, __m256>
#define _mm_maskz_loadu_epi16 avx512::masked<int16_t, __m128i>

#if defined(AVX512_AMX)
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig avx512::loadconfig
#define _tile_release avx512::release
#define _tile_zero avx512::zero
#define _tile_loadd avx512::loadd
#define _tile_stored avx512::stored
#define _tile_dpbssd avx512::dpbssd
#define _tile_dpbf16ps avx512::dpbf16ps
#endif
