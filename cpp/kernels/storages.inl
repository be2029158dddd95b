// Storages: numbers as they lie in memory to an array of the compute type and back.

template <class Storage, bool stochastic, class T>
inline void store(typename Storage::pointer x, int64_t i, T value, RandomKey key, uint32_t steps) {
    constexpr bool draws = Storage::rounds && stochastic;
    Storage::template store<draws>(x, i, value, draws ? random_bits(key, steps) : 0);
}

template <class Storage, class T>
void decode_elements(typename Storage::pointer x, int64_t n, T* out) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = Storage::template load<T>(x, i);
}

template <class Storage, class T>
void decode(void* data, void* low, Role role, int64_t n, void* result) {
    T* out = static_cast<T*>(result);
    if constexpr (Storage::block == 1) {
        decode_elements<Storage>(Storage::at(data, low), n, out);
    } else {
        const uint8_t* x = static_cast<const uint8_t*>(data);
        for (int64_t begin = 0; begin < n; begin += Storage::block) {
            const int count = int(n - begin < Storage::block ? n - begin : Storage::block);
            if (role == Role::momentum)
                Storage::template decode<true>(x, count, out + begin);
            else
                Storage::template decode<false>(x, count, out + begin);
            x += Storage::bytes(Storage::block);
        }
    }
}

template <class Storage, class T, bool stochastic>
void encode_elements(const T* in, int64_t n, typename Storage::pointer x, RandomKey key) {
    uint32_t steps = 0;
    constexpr uint32_t step = RandomKey::step;
    GRADSTEP_SIMD_STEPS()
    for (int64_t i = 0; i < n; ++i) {
        store<Storage, stochastic>(x, i, in[i], key, steps);
        steps += step;
    }
}

template <class Storage, class T>
void encode_blocks(const T* in, int64_t n, uint8_t* x, const Coding& coding) {
    for (int64_t begin = 0; begin < n; begin += Storage::block) {
        const int64_t end = n - begin < Storage::block ? n - begin : Storage::block;
        const RandomKey key = coding.key.from(begin);
        const int32_t count = int32_t(end);
        float copy[sizeof(T) == sizeof(float) ? 1 : Storage::block];
        const float* single = copy;
        if constexpr (sizeof(T) == sizeof(float))
            single = in + begin;
        else
            for (int64_t i = 0; i < end; ++i) copy[i] = float(in[begin + i]);
        const auto code = coding.role == Role::momentum
                              ? (coding.stochastic ? Storage::template encode<true, true>
                                                   : Storage::template encode<true, false>)
                              : (coding.stochastic ? Storage::template encode<false, true>
                                                   : Storage::template encode<false, false>);
        code(single, count, Storage::largest(single, count), x, key);
        x += Storage::bytes(Storage::block);
    }
}

template <class Storage, class T>
void encode(const void* data, int64_t n, void* x, void* low, const Coding& coding) {
    const T* in = static_cast<const T*>(data);
    if constexpr (Storage::block == 1)
        (coding.stochastic
             ? encode_elements<Storage, T, true>
             : encode_elements<Storage, T, false>)(in, n, Storage::at(x, low), coding.key);
    else
        encode_blocks<Storage>(in, n, static_cast<uint8_t*>(x), coding);
}

template <class Storage> int64_t bytes(int64_t n) { return Storage::bytes(n); }

// The distance from 1 to the next number, of a storage that parameters may have.
template <class Storage> constexpr double epsilon() {
    if (!(Storage::roles & gradstep::as_param)) return 0;
    if (std::is_same_v<Storage, bfloat16>) return 0x1p-7;
    if (std::is_same_v<Storage, float16>) return 0x1p-10;
    return sizeof(typename Storage::compute) == sizeof(double) ? 0x1p-52 : 0x1p-23;
}

template <class Storage> constexpr StorageInfo storage_info() {
    using gradstep::double_precision;
    using gradstep::single_precision;
    StorageInfo info = {};
    info.name = Storage::name;
    info.roles = Storage::roles;
    info.rounds = Storage::rounds;
    info.stochastic_momentum = Storage::stochastic_momentum;
    info.block = Storage::block;
    info.block_bytes = Storage::bytes(Storage::block);
    info.low_bytes = Storage::low_bytes;
    info.bytes = bytes<Storage>;
    info.compute =
        sizeof(typename Storage::compute) == sizeof(double) ? double_precision : single_precision;
    info.epsilon = epsilon<Storage>();
    info.decode[single_precision] = decode<Storage, float>;
    info.decode[double_precision] = decode<Storage, double>;
    info.encode[single_precision] = encode<Storage, float>;
    info.encode[double_precision] = encode<Storage, double>;
    if constexpr ((Storage::roles & as_gradient) != 0) {
        info.sum_squares = sum_squares<Storage>;
        info.all_finite[single_precision] = all_finite<Storage, float>;
        info.all_finite[double_precision] = all_finite<Storage, double>;
    }
    return info;
}

#define GRADSTEP_ROW(storage) storage_info<storage>(),
constexpr StorageInfo storages[] = {GRADSTEP_STORAGES(GRADSTEP_ROW)};
#undef GRADSTEP_ROW

// The position of a storage in the catalogue.
template <class Storage> constexpr int storage_index() {
    int index = 0, found = -1;
#define GRADSTEP_COUNT(storage)                                                                    \
    if (std::is_same_v<storage, Storage>) found = index;                                           \
    ++index;
    GRADSTEP_STORAGES(GRADSTEP_COUNT)
#undef GRADSTEP_COUNT
    return found;
}

#define GRADSTEP_ROW(p, g, s, stochastic, loops)                                                   \
    {storage_index<p>(), storage_index<g>(), storage_index<s>(), stochastic},
constexpr Pairing pairings[] = {GRADSTEP_PAIRINGS(GRADSTEP_ROW)};
#undef GRADSTEP_ROW
