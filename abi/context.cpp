// Section 5 of the header: contexts.
#include <blake3.h>

#include <algorithm>

#include "abi/boundary.h"

namespace bitnet {

// 2^20 positions, and semantics that shift them by 2^19 at most: sin_cos_f64 is good for those angles (core/math.h).
static constexpr int n_ctx_max = 1 << 20;
static constexpr int n_threads_max = 256;
static constexpr int n_batch_max = 4096;
static constexpr int n_batch_default = 512;

static int32_t within(int32_t value, int32_t fallback, int32_t most, const char *name) {
    if (value == 0) return fallback;
    if (value < 0 || value > most) fail(Status::invalid, "params->%s is %d: expected 1 to %d", name, value, most);
    return value;
}

static StateConfig config_of(const Model &model, const bitnet_context_params_t &params) {
    if (params.device_id != 0)
        fail(Status::unsupported, "params->device_id is %d: expected 0, the CPU", params.device_id);
    if (params.kv_type > BITNET_KV_F16)
        fail(Status::invalid, "params->kv_type is %u: expected 0 (default), 1 (f32) or 2 (f16)", params.kv_type);
    StateConfig config;
    config.n_ctx = within(params.n_ctx, std::min(model.hp.n_ctx_train, n_ctx_max), n_ctx_max, "n_ctx");
    config.n_threads = within(params.n_threads, std::min(processor_count(), n_threads_max), n_threads_max, "n_threads");
    config.n_batch = std::min(within(params.n_batch, n_batch_default, n_batch_max, "n_batch"), config.n_ctx);
    config.kv = params.kv_type == BITNET_KV_F32   ? KvType::f32
                : params.kv_type == BITNET_KV_F16 ? KvType::f16
                                                  : model.semantics.kv;
    return config;
}

static bool can_certify(const LoadedModel &loaded, const bitnet_context_params_t &params) {
    if (params.head > BITNET_HEAD_CERTIFIED)
        fail(Status::invalid, "params->head is %u: expected 0 (full) or 1 (certified)", params.head);
    return params.head == BITNET_HEAD_CERTIFIED && loaded.kernels->compact_pays &&
           CompactHead::fits(loaded.model->head);
}

// Before the context is anybody's: on its threads.
static void use_dense_weights(bitnet_ctx &ctx, const bitnet_context_params_t &params) {
    if (params.weights > BITNET_WEIGHTS_DENSE)
        fail(Status::invalid, "params->weights is %u: expected 0 (in place) or 1 (dense)", params.weights);
    if (params.weights != BITNET_WEIGHTS_DENSE) return;
    const LoadedModel &loaded = *ctx.loaded;
    ctx.state.dense_rows = DenseWeights::kernel_for(*loaded.kernels);
    if (!ctx.state.dense_rows) return;
    ctx.state.dense =
        &loaded.dense_weights.get([&] { return std::make_unique<const DenseWeights>(*loaded.model, ctx.state.pool); });
}

static void move_back(bitnet_ctx &ctx, int n_positions) {
    ctx.tracing.end_run();
    ctx.state.position = n_positions;
    ctx.state.n_outputs = 0;
    ctx.history.resize(size_t(n_positions));
}

// A saved state: this header, the token history (int32 each), the packed KV cache. Little-endian.
struct SavedState {
    char magic[8];     // "BITNETKV"
    uint32_t version;  // 1
    uint32_t kv_type;  // 0 f32, 1 f16
    uint64_t n_positions;
    uint64_t n_kv_bytes;
    uint8_t checksum[32];   // BLAKE3 of identity and everything after the header
    char identity[64];      // model hash, hex
    uint8_t semantics[32];  // BLAKE3 of the semantics text
};
static_assert(sizeof(SavedState) == 160);
static constexpr char saved_magic[9] = "BITNETKV";

static void hash_bytes(const void *a, size_t n_a, const void *b, size_t n_b, uint8_t *digest) {
    blake3_hasher hasher;
    blake3_hasher_init(&hasher);
    blake3_hasher_update(&hasher, a, n_a);
    blake3_hasher_update(&hasher, b, n_b);
    blake3_hasher_finalize(&hasher, digest, 32);
}

static SavedState identity_of(const bitnet_ctx &ctx, int n_positions) {
    SavedState saved{};
    std::memcpy(saved.magic, saved_magic, 8);
    saved.version = 1;
    saved.kv_type = ctx.state.config.kv == KvType::f16;
    saved.n_positions = uint64_t(n_positions);
    saved.n_kv_bytes = ctx.state.packed_kv_bytes(n_positions);
    std::memcpy(saved.identity, ctx.loaded->hash().data(), sizeof saved.identity);
    hash_bytes(ctx.loaded->semantics_text.data(), ctx.loaded->semantics_text.size(), "", 0, saved.semantics);
    return saved;
}

static void save(bitnet_ctx &ctx, void *out, size_t *n) {
    require(n, "n");
    SavedState header = identity_of(ctx, ctx.state.position);
    const size_t n_history = ctx.history.size() * sizeof(int32_t);
    const size_t need = sizeof header + n_history + size_t(header.n_kv_bytes);
    const size_t capacity = *n;
    *n = need;
    if (!out) return;
    if (capacity < need) fail(Status::buffer, "the buffer holds %zu bytes: expected at least %zu", capacity, need);
    uint8_t *body = static_cast<uint8_t *>(out) + sizeof header;
    if (n_history) std::memcpy(body, ctx.history.data(), n_history);
    ctx.state.pack_kv(ctx.state.position, body + n_history);
    hash_bytes(header.identity, sizeof header.identity, body, need - sizeof header, header.checksum);
    std::memcpy(out, &header, sizeof header);
}

static void restore(bitnet_ctx &ctx, const uint8_t *data, size_t n) {
    SavedState header;
    if (n < sizeof header) fail(Status::format, "saved state: %zu bytes: expected at least %zu", n, sizeof header);
    std::memcpy(&header, data, sizeof header);
    if (std::memcmp(header.magic, saved_magic, 8) != 0)
        fail(Status::format, "saved state: begins with %s: expected 'BITNETKV'", quoted(header.magic, 8).c_str());
    if (header.version != 1) fail(Status::abi, "saved state: version %u: expected 1", header.version);
    if (header.n_positions > uint64_t(ctx.state.config.n_ctx))
        fail(Status::overflow, "saved state: %llu positions: the context holds %d",
             static_cast<unsigned long long>(header.n_positions), ctx.state.config.n_ctx);
    const SavedState mine = identity_of(ctx, int(header.n_positions));
    if (std::memcmp(header.identity, mine.identity, sizeof mine.identity) != 0)
        fail(Status::invalid, "saved state: of model %.16s...: expected %.16s...", quoted(header.identity, 16).c_str(),
             mine.identity);
    if (header.kv_type != mine.kv_type)
        fail(Status::invalid, "saved state: KV type %u: expected %u (0 f32, 1 f16)", header.kv_type, mine.kv_type);
    if (std::memcmp(header.semantics, mine.semantics, sizeof mine.semantics) != 0)
        fail(Status::invalid, "saved state: made under other semantics than %s", ctx.loaded->semantics_text.c_str());
    const size_t n_history = size_t(header.n_positions) * sizeof(int32_t);
    const size_t need = sizeof header + n_history + size_t(mine.n_kv_bytes);
    if (header.n_kv_bytes != mine.n_kv_bytes || n != need)
        fail(Status::format, "saved state: %zu bytes: expected %zu", n, need);
    uint8_t checksum[32];
    hash_bytes(header.identity, sizeof header.identity, data + sizeof header, n - sizeof header, checksum);
    if (std::memcmp(checksum, header.checksum, sizeof checksum) != 0)
        fail(Status::format, "saved state: its checksum does not match its %zu bytes", n);

    std::vector<int32_t> history(size_t(header.n_positions));
    if (n_history) std::memcpy(history.data(), data + sizeof header, n_history);
    move_back(ctx, 0);
    ctx.state.unpack_kv(int(header.n_positions), data + sizeof header + n_history);
    ctx.state.position = int(header.n_positions);
    ctx.history = std::move(history);
}

}  // namespace bitnet

using namespace bitnet;

extern "C" {

bitnet_status_t bitnet_context_create(const bitnet_model_t *model, const bitnet_context_params_t *given,
                                      bitnet_ctx_t **out) {
    if (out) *out = nullptr;
    return guarded("bitnet_context_create", [&] {
        require(out, "out");
        require(model, "model");
        const bitnet_context_params_t params = parameters(given, "params");
        const StateConfig config = config_of(*model->loaded->model, params);
        const bool certified = can_certify(*model->loaded, params);
        auto ctx = std::make_unique<bitnet_ctx>(model->loaded, config);
        ctx->certified = certified;
        use_dense_weights(*ctx, params);
        ctx->history.reserve(size_t(config.n_ctx));
        ctx->tracing.attach_environment();
        *out = ctx.release();
    });
}

void bitnet_context_free(bitnet_ctx_t *ctx) { delete ctx; }

bitnet_status_t bitnet_context_reset(bitnet_ctx_t *ctx) {
    return guarded("bitnet_context_reset", [&] {
        Entry entry(ctx);
        move_back(*ctx, 0);
    });
}

bitnet_status_t bitnet_context_truncate(bitnet_ctx_t *ctx, int32_t n_positions) {
    return guarded("bitnet_context_truncate", [&] {
        Entry entry(ctx);
        if (n_positions < 0 || n_positions > ctx->state.position)
            fail(Status::invalid, "n_positions is %d: expected 0 to %d", n_positions, ctx->state.position);
        if (n_positions < ctx->state.position) move_back(*ctx, n_positions);
    });
}

bitnet_status_t bitnet_context_fork(bitnet_ctx_t *ctx, bitnet_ctx_t **out) {
    if (out) *out = nullptr;
    return guarded("bitnet_context_fork", [&] {
        require(out, "out");
        Entry entry(ctx);
        auto copy = std::make_unique<bitnet_ctx>(ctx->loaded, ctx->state.config);
        copy->history.reserve(size_t(ctx->state.config.n_ctx));
        copy->history = ctx->history;
        copy->certified = ctx->certified;
        copy->state.dense = ctx->state.dense;
        copy->state.dense_rows = ctx->state.dense_rows;
        copy->state.copy_kv(ctx->state, ctx->state.position);
        copy->state.position = ctx->state.position;
        *out = copy.release();
    });
}

int32_t bitnet_context_position(const bitnet_ctx_t *ctx) { return ctx ? ctx->state.position : -1; }
int32_t bitnet_context_capacity(const bitnet_ctx_t *ctx) { return ctx ? ctx->state.config.n_ctx : -1; }

bitnet_status_t bitnet_context_get_head_stats(const bitnet_ctx_t *ctx, bitnet_head_stats_t *out) {
    return guarded("bitnet_context_get_head_stats", [&] {
        require(ctx, "ctx");
        bitnet_head_stats_t stats{};
        stats.n_certified = ctx->n_certified;
        stats.n_full = ctx->n_full;
        stats.n_rows_computed = ctx->n_rows_computed;
        if (const CompactHead *compact = ctx->certified ? ctx->loaded->compact_head.made() : nullptr) {
            stats.n_bytes = compact->bytes();
            stats.build_ns = ctx->loaded->compact_head.build_ns();
        }
        fill(out, stats, "out");
    });
}

bitnet_status_t bitnet_context_get_weight_stats(const bitnet_ctx_t *ctx, bitnet_weight_stats_t *out) {
    return guarded("bitnet_context_get_weight_stats", [&] {
        require(ctx, "ctx");
        bitnet_weight_stats_t stats{};
        if (ctx->state.dense) {
            stats.dense = 1;
            stats.n_bytes = ctx->state.dense->bytes();
            stats.build_ns = ctx->loaded->dense_weights.build_ns();
        }
        fill(out, stats, "out");
    });
}

uint64_t bitnet_context_memory(const bitnet_ctx_t *ctx) { return ctx ? ctx->state.bytes() : 0; }

bitnet_status_t bitnet_context_save(bitnet_ctx_t *ctx, void *out, size_t *n) {
    return guarded("bitnet_context_save", [&] {
        Entry entry(ctx);
        save(*ctx, out, n);
    });
}

bitnet_status_t bitnet_context_restore(bitnet_ctx_t *ctx, const void *data, size_t n) {
    return guarded("bitnet_context_restore", [&] {
        require(data, "data");
        Entry entry(ctx);
        restore(*ctx, static_cast<const uint8_t *>(data), n);
    });
}

}  // extern "C"
