#include "abi/cli/certify/rows.h"

#include <bitnet_c.h>
#include <gtest/gtest.h>

#include "abi/cli/terminal.h"

namespace bitnet::certify {
namespace {

std::string hash(char digit) { return std::string(64, digit); }

// Two positions of a model with one layer, as a batch computes them: stage by stage.
std::vector<Row> batch() {
    return {{{0, -1, BITNET_STAGE_EMBEDDINGS}, hash('0')},
            {{1, -1, BITNET_STAGE_EMBEDDINGS}, hash('1')},
            {{0, 0, BITNET_STAGE_Q_PROJ | BITNET_STAGE_ACC}, hash('2')},
            {{1, 0, BITNET_STAGE_Q_PROJ | BITNET_STAGE_ACC}, hash('3')},
            {{0, 0, BITNET_STAGE_Q_PROJ}, hash('4')},
            {{1, 0, BITNET_STAGE_Q_PROJ}, hash('5')},
            {{0, -1, BITNET_STAGE_LOGITS}, hash('6')},
            {{1, -1, BITNET_STAGE_LOGITS}, hash('7')}};
}

TEST(Reference, LinesGoByPositionThenExecution) {
    EXPECT_EQ(Reference(batch()).lines(), "0 -1 embeddings " + hash('0') + "\n0 0 q_proj.acc " + hash('2') +
                                              "\n0 0 q_proj " + hash('4') + "\n0 -1 logits " + hash('6') +
                                              "\n1 -1 embeddings " + hash('1') + "\n1 0 q_proj.acc " + hash('3') +
                                              "\n1 0 q_proj " + hash('5') + "\n1 -1 logits " + hash('7') + "\n");
}

TEST(Reference, FindsEachRowAndNoOther) {
    const Reference reference(batch());
    for (size_t i = 0; i < reference.rows().size(); i++) EXPECT_EQ(reference.find(reference.rows()[i].id), i);
    for (const RowId &id : {RowId{2, 0, BITNET_STAGE_Q_PROJ}, RowId{0, 1, BITNET_STAGE_Q_PROJ},
                            RowId{0, 0, BITNET_STAGE_K_PROJ}, RowId{-1, -1, BITNET_STAGE_EMBEDDINGS}})
        EXPECT_EQ(reference.find(id), reference.rows().size());
    EXPECT_EQ(Reference({}).find({0, 0, 1}), 0u);
}

TEST(Reference, RefusesARowThatCameTwice) {
    std::vector<Row> rows = batch();
    rows.push_back({rows[2].id, hash('9')});
    try {
        Reference reference(rows);
        FAIL() << "no error";
    } catch (const CommandError &error) {
        EXPECT_STREQ(error.what(), "position 0, layer 0, q_proj.acc: traced twice in one run");
    }
}

TEST(Comparison, EqualInAnyOrderAndMoreThanOnce) {
    const Reference reference(batch());
    Comparison comparison(reference);
    std::vector<Row> rows = batch();
    for (auto row = rows.rbegin(); row != rows.rend(); ++row) comparison.add(*row);
    comparison.add(rows[0]);
    EXPECT_EQ(comparison.n_compared(), 9u);
    EXPECT_EQ(comparison.n_different(), 0u);
    EXPECT_EQ(comparison.n_unknown(), 0u);
    EXPECT_EQ(comparison.n_missing({}), 0u);
    EXPECT_EQ(comparison.first_expected(), nullptr);
}

// Any single altered digit of any row is found, and named.
TEST(Comparison, FindsEveryAlteredRow) {
    const Reference reference(batch());
    for (size_t altered = 0; altered < batch().size(); altered++) {
        for (const size_t digit : {size_t(0), size_t(31), size_t(63)}) {
            std::vector<Row> rows = batch();
            rows[altered].hash[digit] = 'f';
            Comparison comparison(reference);
            for (const Row &row : rows) comparison.add(row);
            EXPECT_EQ(comparison.n_different(), 1u);
            EXPECT_EQ(comparison.n_compared(), 8u);
            ASSERT_NE(comparison.first_expected(), nullptr);
            EXPECT_EQ(comparison.first_expected()->id, rows[altered].id);
            EXPECT_EQ(comparison.first_expected()->hash, batch()[altered].hash);
            EXPECT_EQ(comparison.first_found(), rows[altered].hash);
        }
    }
}

// First in canonical order, not the one that came first.
TEST(Comparison, NamesTheFirstOfSeveral) {
    const Reference reference(batch());
    Comparison comparison(reference);
    comparison.add({{1, -1, BITNET_STAGE_EMBEDDINGS}, hash('a')});
    comparison.add({{0, -1, BITNET_STAGE_LOGITS}, hash('b')});
    comparison.add({{0, 0, BITNET_STAGE_Q_PROJ}, hash('c')});
    comparison.add({{1, 0, BITNET_STAGE_Q_PROJ}, hash('d')});
    EXPECT_EQ(comparison.n_different(), 4u);
    EXPECT_EQ(comparison.first_expected()->id, (RowId{0, 0, BITNET_STAGE_Q_PROJ}));
    EXPECT_EQ(comparison.first_found(), hash('c'));
}

TEST(Comparison, CountsWhatIsMissingAndUnknown) {
    const Reference reference(batch());
    Comparison comparison(reference);
    comparison.add({{7, 0, BITNET_STAGE_Q_PROJ}, hash('4')});
    EXPECT_EQ(comparison.n_unknown(), 1u);
    EXPECT_EQ(comparison.n_compared(), 0u);
    EXPECT_EQ(comparison.n_missing({0, false}), 8u);
    EXPECT_EQ(comparison.n_missing({1, false}), 4u);
    EXPECT_EQ(comparison.n_missing({0, true}), 2u);
    EXPECT_EQ(comparison.n_missing({1, true}), 1u);
    comparison.add({{1, -1, BITNET_STAGE_LOGITS}, hash('7')});
    EXPECT_EQ(comparison.n_missing({1, true}), 0u);
    EXPECT_EQ(comparison.n_missing({0, false}), 7u);
}

}  // namespace
}  // namespace bitnet::certify
