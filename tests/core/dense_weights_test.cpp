// Weights at five trits a byte: the kernels against the definition, and a forward pass that decodes from them against
// one that does not, with ==.
#include "core/dense_weights.h"

#include "bitnet_c.h"
#include "core/cpu.h"
#include "core/forward.h"
#include "model/error.h"
#include "tests/core/kernels_support.h"

namespace bitnet {
namespace {

struct Kernel {
    const char *name;
    DenseRows rows;
};
std::vector<Kernel> usable_kernels() {
    std::vector<Kernel> all = {{"scalar", scalar::dense_rows}};
#if defined(__x86_64__)
    if (has_avx512vbmi()) all.push_back({"avx512vbmi", avx512vbmi::dense_rows});
#endif
    return all;
}

// By the definition in dense.h. weights: (n_rows, n_in) in {-1, 0, 1}.
std::vector<uint8_t> pack(const std::vector<int8_t> &weights, int n_rows, int n_in) {
    const int digit[5] = {1, 3, 9, 27, 82};
    std::vector<uint8_t> out(size_t(n_rows) * dense_row_bytes(n_in));
    for (int r = 0; r < n_rows; ++r)
        for (int i = 0; i < n_in; ++i)
            out[size_t(r) * dense_row_bytes(n_in) + size_t(i / 320 * 64 + i % 64)] +=
                uint8_t((weights[size_t(r) * size_t(n_in) + size_t(i)] + 1) * digit[i % 320 / 64]);
    return out;
}

void check(const std::vector<int8_t> &w, int n_rows, int n_in, const std::vector<int8_t> &x) {
    int32_t x_sum = 0;
    for (int8_t v : x) x_sum += v;
    for (const Kernel &kernel : usable_kernels()) {
        Guarded<int32_t> acc{size_t(n_rows)};
        Scratch scratch(scalar::kernels, n_in);
        kernel.rows(Input(pack(w, n_rows, n_in)).data(), n_rows, n_in, Input(x).data(), x_sum, acc.data(),
                    scratch.data());
        EXPECT_TRUE(acc.intact() && scratch.intact());
        for (int r = 0; r < n_rows; ++r) {
            int32_t expected = 0;
            for (int i = 0; i < n_in; ++i) expected += w[size_t(r) * size_t(n_in) + size_t(i)] * x[size_t(i)];
            ASSERT_EQ(acc.values()[size_t(r)], expected) << kernel.name << " " << n_in << " row " << r;
        }
    }
}

TEST(DenseRows, EverySize) {
    std::mt19937 rng(5);
    for (int n_in : {128, 256, 320, 384, 640, 960, 1152, 2560, 6912})
        for (int n_rows : {1, 2, 3, 4, 5, 7, 8, 9, 17}) {
            std::vector<int8_t> w(size_t(n_in) * size_t(n_rows)), x(static_cast<size_t>(n_in));
            for (int8_t &v : w) v = int8_t(int(rng() % 3) - 1);
            for (int8_t &v : x) v = int8_t(int(rng() % 255) - 127);
            check(w, n_rows, n_in, x);
        }
}

// The largest sums there are: nothing may saturate or wrap on the way.
TEST(DenseRows, Extremes) {
    for (int n_in : {128, 320, 2560, 13824})
        for (int weight : {-1, 0, 1})
            for (int value : {-127, 127}) {
                std::vector<int8_t> x(static_cast<size_t>(n_in), int8_t(value));
                check(std::vector<int8_t>(size_t(n_in) * 5, int8_t(weight)), 5, n_in, x);
                for (size_t i = 0; i < x.size(); i += 2) x[i] = int8_t(-value);
                check(std::vector<int8_t>(size_t(n_in) * 5, int8_t(weight)), 5, n_in, x);
            }
}

// Every byte that a row can hold, at every place of a register.
TEST(DenseRows, EveryByte) {
    const int n_in = 320;
    std::vector<int8_t> w, x(n_in);
    for (int i = 0; i < n_in; ++i) x[size_t(i)] = int8_t(i % 255 - 127);
    for (int byte = 0; byte < 243; ++byte)
        for (int i = 0; i < n_in; ++i) {
            const int power[] = {1, 3, 9, 27, 81};
            w.push_back(int8_t(byte / power[i / 64] % 3 - 1));
        }
    check(w, 243, n_in, x);
}

std::shared_ptr<const Model> small_model() { return Model::load(Mapping::map_file("tests/data/small.gguf"), {}); }

struct Evaluated {
    std::vector<float> logits;
    std::vector<std::string> kernels;  // of q_proj, by eval
};

class KernelNames : public Tracer {
public:
    std::vector<std::string> names;
    bool wants(int stage, int, int, int) noexcept override { return stage == BITNET_STAGE_Q_PROJ; }
    const char *stop_reason() noexcept override { return nullptr; }
    void emit(const StageRows &rows) noexcept override { names.push_back(rows.kernel); }
};

Evaluated evaluate(const std::shared_ptr<const Model> &model, const Kernels &kernels, const DenseWeights *dense,
                   DenseRows rows, int n_threads, size_t step, bool traced) {
    State state(model, kernels, {64, n_threads, 64, KvType::f32});
    state.dense = dense;
    state.dense_rows = rows;
    KernelNames names;
    if (traced) state.tracer = &names;
    Evaluated result;
    for (size_t done = 0; done < 12; done += step) {
        std::vector<int32_t> tokens;
        for (size_t i = 0; i < step; ++i) tokens.push_back(int32_t((done + i) * 37 + 11) % 512);
        EvalRequest request;
        request.tokens = tokens.data();
        request.n = step;
        request.keep = KeepLogits::all;
        eval(state, request);
        result.logits.insert(result.logits.end(), state.logits.data(), state.logits.data() + step * 512);
    }
    result.kernels = names.names;
    return result;
}

TEST(DenseWeights, DecodingFromThemGivesTheSameBits) {
    const auto model = small_model();
    ThreadPool pool(3);
    const DenseWeights dense(*model, pool);
    const Evaluated reference = evaluate(model, scalar::kernels, nullptr, nullptr, 1, 12, false);
    for (int isa = 0; isa < isa_count(); ++isa) {
        if (!isa_at(isa).usable) continue;
        for (const Kernel &kernel : usable_kernels())
            for (int n_threads : {1, 2, 3, 7})
                for (size_t step : {1, 2, 3, 4}) {
                    const Evaluated found =
                        evaluate(model, *isa_at(isa).kernels, &dense, kernel.rows, n_threads, step, step == 3);
                    EXPECT_TRUE(same_bits(found.logits, reference.logits))
                        << isa_at(isa).kernels->isa << " " << kernel.name << " " << n_threads << " by " << step;
                }
    }
    for (const std::string &name : evaluate(model, scalar::kernels, &dense, scalar::dense_rows, 1, 1, true).kernels)
        EXPECT_EQ(name, DenseWeights::kernel_name);
    for (const std::string &name : evaluate(model, scalar::kernels, &dense, scalar::dense_rows, 1, 4, true).kernels)
        EXPECT_EQ(name, "ternary.scalar") << "several tokens are computed from the file's weights";
}

TEST(DenseWeights, HoldEveryRowOfEveryMatrix) {
    const auto model = small_model();
    ThreadPool pool(2);
    const DenseWeights dense(*model, pool);
    size_t n_bytes = 0;
    for (const LayerWeights &l : model->layers)
        for (const TernaryMatrix *w : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w_gate, &l.w_up, &l.w_down}) {
            n_bytes += size_t(w->n_out) * dense_row_bytes(w->n_in);
            std::vector<int8_t> weights;
            for (size_t i = 0; i < size_t(w->n_out) * size_t(w->n_in); ++i)
                weights.push_back(int8_t((w->codes[i / 128 * 32 + i % 32] >> (6 - i % 128 / 32 * 2) & 3) - 1));
            const std::vector<uint8_t> expected = pack(weights, w->n_out, w->n_in);
            EXPECT_EQ(std::memcmp(dense.rows_of(*w), expected.data(), expected.size()), 0) << w->number;
        }
    EXPECT_EQ(dense.bytes(), n_bytes);
}

TEST(DenseWeights, RefuseACodeThatIsNone) {
    const auto file = Mapping::read_file("tests/data/small.gguf");
    const auto model = Model::load(file, {});
    std::vector<uint8_t> bytes(file->data(), file->data() + file->size());
    bytes[size_t(model->layers[1].w_up.codes - file->data()) + 77] |= 0x0c;
    LoadOptions unchecked;
    unchecked.check_codes = false;
    const auto damaged = Model::load(Mapping::borrow(bytes.data(), bytes.size(), "damaged"), unchecked);
    ThreadPool pool(2);
    try {
        const DenseWeights dense(*damaged, pool);
        FAIL();
    } catch (const Error &e) {
        EXPECT_EQ(e.status, Status::format);
        EXPECT_NE(std::string(e.what()).find("a code is 3: expected 0, 1 or 2"), std::string::npos) << e.what();
    }
}

TEST(DenseWeights, OneKernelForOneSetOfKernels) {
    for (int isa = 0; isa < isa_count(); ++isa) {
        const std::string name = isa_at(isa).kernels->isa;
        EXPECT_EQ(DenseWeights::kernel_for(*isa_at(isa).kernels) != nullptr, name == "avx512vnni" && has_avx512vbmi())
            << name;
    }
}

}  // namespace
}  // namespace bitnet
