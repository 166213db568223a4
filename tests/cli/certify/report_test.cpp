#include "abi/cli/certify/report.h"

#include <bitnet_c.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace bitnet::certify {
namespace {

std::string hash(char digit) { return std::string(64, digit); }

class ReportOfRuns : public testing::Test {
protected:
    const Reference reference_{{{{0, -1, BITNET_STAGE_EMBEDDINGS}, hash('1')},
                                {{0, 2, BITNET_STAGE_FFN_ACT}, hash('2')},
                                {{0, -1, BITNET_STAGE_LOGITS}, hash('3')}}};
    Report report_;

    void SetUp() override {
        report_.model_path = "m.gguf";
        report_.n_prompt = 1;
        report_.tokens = {5};
        report_.n_rows = 3;
        report_.certificate = {"x/1", "", hash('a'), hash('b'), hash('c')};
    }
    void run(const std::string &isa, std::vector<Row> rows) {
        Comparison comparison(reference_);
        for (const Row &row : rows) comparison.add(row);
        report_.add(isa, "2 threads", comparison, comparison.n_missing({}));
    }
    nlohmann::json json() const { return nlohmann::json::parse(report_.json()); }
    bool says(const std::string &words) const { return report_.text().find(words) != std::string::npos; }
};

TEST_F(ReportOfRuns, NothingComparedIsAnError) {
    EXPECT_EQ(report_.exit_code(), 2);
    EXPECT_EQ(report_.error(), "nothing was compared");
    EXPECT_TRUE(says("no certificate")) << report_.text();
    EXPECT_TRUE(json()["certificate"].is_null());
    run("scalar", {});  // a run that showed nothing
    EXPECT_EQ(report_.exit_code(), 2);
    EXPECT_EQ(report_.error(), "scalar, 2 threads: 3 rows are missing");
}

TEST_F(ReportOfRuns, EqualRunsGiveTheCertificate) {
    run("scalar", reference_.rows());
    run("scalar", reference_.rows());
    run("neon", reference_.rows());
    report_.absent = {"sse2"};
    EXPECT_EQ(report_.exit_code(), 0);
    EXPECT_EQ(report_.error(), "");
    EXPECT_TRUE(says("  scalar    2 runs             6 rows compared  equal\n")) << report_.text();
    EXPECT_TRUE(says("  neon      1 runs             3 rows compared  equal\n")) << report_.text();
    EXPECT_TRUE(says("  sse2    not on this CPU\n")) << report_.text();
    EXPECT_TRUE(report_.text().ends_with("\n" + report_.certificate.line() + "\n")) << report_.text();
    EXPECT_EQ(json()["verdict"], "equal");
    EXPECT_EQ(json()["certificate"]["line"], report_.certificate.line());
    EXPECT_EQ(json()["isas"][0]["compared"], 6);
}

TEST_F(ReportOfRuns, OneAlteredRowIsADivergence) {
    std::vector<Row> rows = reference_.rows();
    rows[1].hash = hash('f');
    run("scalar", reference_.rows());
    run("avx2", rows);
    EXPECT_EQ(report_.exit_code(), 1);
    EXPECT_FALSE(report_.runs_equal());
    EXPECT_TRUE(
        says("avx2, 2 threads: position 0, layer 2, ffn_act: ffffffffffffffff..., expected 2222222222222222...\n"))
        << report_.text();
    EXPECT_TRUE(says("  avx2      1 runs             3 rows compared  DIFFERENT in 1 of them\n")) << report_.text();
    EXPECT_FALSE(says(report_.certificate.line()));
    const nlohmann::json found = json();
    EXPECT_EQ(found["exit"], 1);
    EXPECT_TRUE(found["certificate"].is_null());
    EXPECT_EQ(found["divergences"][0]["isa"], "avx2");
    EXPECT_EQ(found["divergences"][0]["first"]["stage"], "ffn_act");
    EXPECT_EQ(found["divergences"][0]["first"]["found"], hash('f'));
}

TEST_F(ReportOfRuns, MissingAndUnknownRowsAreErrorsUnlessBitsDiffer) {
    run("scalar", {reference_.rows()[0], reference_.rows()[2], {{9, 0, BITNET_STAGE_Q_PROJ}, hash('1')}});
    EXPECT_EQ(report_.exit_code(), 2);
    EXPECT_EQ(report_.error(), "scalar, 2 threads: 1 rows are missing; 1 rows that the reference has not");
    EXPECT_FALSE(report_.runs_equal());
    run("scalar", {{{0, -1, BITNET_STAGE_LOGITS}, hash('f')}});
    EXPECT_EQ(report_.exit_code(), 1);
    EXPECT_EQ(report_.error(), "");
    EXPECT_TRUE(says("position 0, logits: ffffffffffffffff..., expected 3333333333333333...; 2 rows are missing"))
        << report_.text();
}

TEST_F(ReportOfRuns, AnotherCertificateIsADivergence) {
    run("scalar", reference_.rows());
    report_.expect = "golden";
    EXPECT_TRUE(says("golden: as expected\n"));
    report_.mismatch = "other model: ...";
    EXPECT_EQ(report_.exit_code(), 1);
    EXPECT_TRUE(says("golden: other model: ...\n"));
    EXPECT_EQ(json()["expect"]["mismatch"], "other model: ...");
}

TEST_F(ReportOfRuns, ManyDivergencesAreCutShort) {
    std::vector<Row> rows = reference_.rows();
    rows[0].hash = rows[1].hash = hash('f');
    for (int i = 0; i < 12; i++) run("scalar", rows);
    EXPECT_TRUE(says("; 2 rows differ\n")) << report_.text();
    EXPECT_TRUE(says("\n... and 2 more runs\n")) << report_.text();
    EXPECT_EQ(json()["divergences"].size(), 12u);
}

}  // namespace
}  // namespace bitnet::certify
