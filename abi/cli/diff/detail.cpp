// What two records of the same stage say about how they differ.
#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/text.h"

#include <cmath>

namespace bitnet::diff {

namespace {

const Top *listed(const Record &record, uint32_t index) {
    for (uint32_t i = 0; i < record.n_top; ++i) {
        if (record.top[i].index == index) return &record.top[i];
    }
    return nullptr;
}

std::string count_text(uint64_t n, const char *what) {
    return n ? format_text("%llu %s", static_cast<unsigned long long>(n), what) : std::string("no ") + what;
}

// The number c for which B's sketch is c times A's, when there is one: the sketch is linear.
std::optional<double> common_factor(const Record &a, const Record &b) {
    double aa = 0, ab = 0, bb = 0;
    for (size_t i = 0; i < kSketchBuckets; ++i) {
        aa += double(a.sketch[i]) * double(a.sketch[i]);
        ab += double(a.sketch[i]) * double(b.sketch[i]);
        bb += double(b.sketch[i]) * double(b.sketch[i]);
    }
    if (!(aa > 0) || !(bb > 0)) return std::nullopt;
    double factor = ab / aa, rest = 0;
    for (size_t i = 0; i < kSketchBuckets; ++i) {
        double d = double(b.sketch[i]) - factor * double(a.sketch[i]);
        rest += d * d;
    }
    bool fits = std::sqrt(rest) <= 1e-5 * std::sqrt(bb) && std::abs(b.l2 - std::abs(factor) * a.l2) <= 1e-5 * b.l2;
    // Close to 1 it says nothing that the distance does not.
    return fits && std::abs(factor - 1) > 1e-4 ? std::optional(factor) : std::nullopt;
}

// Number of buckets that differ by more than the rounding of their sums.
size_t different_buckets(const Record &a, const Record &b, double *size) {
    size_t n = 0;
    for (size_t i = 0; i < kSketchBuckets; ++i) {
        double d = std::abs(double(a.sketch[i]) - double(b.sketch[i]));
        double rounding = 1.2e-7 * std::max(std::abs(double(a.sketch[i])), std::abs(double(b.sketch[i])));
        if (d <= rounding) continue;
        *size = d;
        ++n;
    }
    return n;
}

}  // namespace

std::optional<TopDifference> first_top_difference(const Record &a, const Record &b) {
    for (uint32_t i = 0; i < std::max(a.n_top, b.n_top); ++i) {
        bool has_a = i < a.n_top, has_b = i < b.n_top;
        if (has_a && has_b && a.top[i].index == b.top[i].index && a.top[i].value == b.top[i].value) continue;
        uint32_t index = has_a ? a.top[i].index : b.top[i].index;
        const Top *in_a = listed(a, index), *in_b = listed(b, index);
        // The same element further down B's list: what pushed it down is what differs.
        if (has_b && in_a && in_b && in_a->value == in_b->value) {
            index = b.top[i].index;
            in_a = listed(a, index);
            in_b = listed(b, index);
        }
        TopDifference difference{index, std::nullopt, std::nullopt};
        if (in_a) difference.a = in_a->value;
        if (in_b) difference.b = in_b->value;
        return difference;
    }
    return std::nullopt;
}

std::vector<std::string> hints(const Record &a, const Record &b) {
    std::vector<std::string> out;
    if (a.n_elements != b.n_elements) {
        out.push_back(format_text("shapes differ: %llu elements against %llu",
                                  static_cast<unsigned long long>(a.n_elements),
                                  static_cast<unsigned long long>(b.n_elements)));
        return out;
    }
    if (a.dtype != b.dtype) out.push_back(format_text("types differ: %s against %s", a.dtype.data(), b.dtype.data()));
    if (a.bare || b.bare) {
        if (!std::isfinite(a.rms) != !std::isfinite(b.rms))
            out.push_back(std::string(std::isfinite(a.rms) ? "B" : "A") + " has values that are not finite");
        return out;
    }
    if (a.n_nan != b.n_nan)
        out.push_back("A has " + count_text(a.n_nan, "NaN") + ", B has " + count_text(b.n_nan, "NaN"));
    if (a.n_inf != b.n_inf) {
        out.push_back("A has " + count_text(a.n_inf, "infinite values") + ", B has " +
                      count_text(b.n_inf, "infinite values"));
    }
    if (a.nonfinite != b.nonfinite) {
        const auto place = [](const Record &r) {
            if (r.nonfinite) return "in element " + std::to_string(*r.nonfinite);
            return std::string(r.n_nan + r.n_inf == 0 ? "nowhere" : "not recorded");
        };
        out.push_back("the first NaN or infinity: A's " + place(a) + ", B's " + place(b));
    }
    if (a.blake3 == b.blake3) {
        if (!statistics_agree(a, b)) out.push_back("equal hashes but other statistics: one record was altered");
        return out;
    }
    if (a.dtype == b.dtype && a.multiset == b.multiset) {
        out.push_back("same values in another order (a permutation)");
        return out;
    }
    bool a_zero = a.n_zeros == a.n_elements, b_zero = b.n_zeros == b.n_elements;
    if (a_zero != b_zero) {
        out.push_back(a_zero ? "A is all zeros" : "B is all zeros");
        return out;
    }
    if (auto factor = common_factor(a, b)) out.push_back("B is A times " + format_text("%.6g", *factor));
    double size = 0;
    if (different_buckets(a, b, &size) == 1) {
        // One element moves one bucket by exactly its change; two would have to share a bucket.
        std::string text = "a single value differs, by " + format_text("%.6g", size);
        std::optional<TopDifference> top = first_top_difference(a, b);
        if (top) {
            text += format_text(", at index %u", top->index);
        } else {
            text += " (not among the 8 largest)";
        }
        out.push_back(text);
    }
    return out;
}

std::string selection_to_explain(Key key) {
    const int position = position_of(key), layer = layer_of(key);
    const Node node = node_of(key);
    if (node == embeddings_node()) return format_text("%d:{-1}:*", position);
    if (layer < 0) return format_text("%d:{-1}:*,%d:*:layer_out", position, position);
    std::string text = format_text("%d:%d:**,%d:%d:*.*", position, layer, position, layer);
    text += layer == 0 ? format_text(",%d:{-1}:embeddings", position)
                       : format_text(",%d:%d:layer_out", position, layer - 1);
    if (position > 0) text += format_text(",0-%d:%d:{k_rope;v_proj}", position - 1, layer);
    return text;
}

}  // namespace bitnet::diff
