#include "plugins/check/report.h"

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include "plugins/output/file.h"
#include "plugins/output/record_text.h"

namespace bitnet {

namespace {

void put_key(JsonText *out, const char *key) {
    if (out->data && out->n && out->data[out->n - 1] != '{') out->put(',');
    out->put_string(key);
    out->put(':');
}

void put_count(JsonText *out, const char *key, uint64_t value) {
    put_key(out, key);
    out->put_unsigned(value);
}

void put_side(JsonText *out, const char *key, const uint8_t *blake3, const char *dtype, uint64_t n) {
    put_key(out, key);
    out->lit("{\"blake3\":\"");
    out->put_hex(blake3, 32);
    out->lit("\",\"dtype\":");
    out->put_string(dtype);
    out->lit(",\"num_elements\":");
    out->put_unsigned(n);
}

void put_values(JsonText *out, uint64_t n_nan, uint64_t n_inf, double absmax) {
    put_count(out, "nan", n_nan);
    put_count(out, "inf", n_inf);
    put_key(out, "absmax");
    out->put_number(absmax);
}

void put_hint(JsonText *out, const RowHint &hint) {
    out->lit("{\"index\":");
    out->put_unsigned(hint.index);
    put_key(out, "found");
    out->put_number(hint.found);
    put_key(out, hint.has_expected ? "expected" : "expected_at_most");
    out->put_number(hint.has_expected ? hint.expected : hint.expected_limit);
    out->put('}');
}

void put_difference(JsonText *out, const RowDifference &d, const char *text) {
    out->lit("{\"text\":");
    out->put_string(text);
    put_count(out, "run", d.run);
    put_key(out, "seq");
    out->put_signed(d.position);
    put_key(out, "layer");
    out->put_signed(d.layer);
    put_key(out, "stage");
    out->put_string(d.stage);
    put_count(out, "event", d.event);
    put_count(out, "line", d.line);
    put_side(out, "found", d.blake3_found, dtype_name(d.dtype_found), d.n_found);
    if (d.line) put_values(out, d.nan_found, d.inf_found, d.absmax_found);
    out->put('}');
    put_side(out, "expected", d.blake3_expected, dtype_name(d.dtype_expected), d.n_expected);
    if (d.line) put_values(out, d.nan_expected, d.inf_expected, d.absmax_expected);
    out->put('}');
    put_key(out, "relative_l2");
    if (std::isnan(d.distance)) {
        out->lit("null");
    } else {
        out->put_number(d.distance);
    }
    if (d.is_permutation) out->lit(",\"permutation\":true");
    if (d.is_single) out->lit(",\"single_value\":true");
    out->lit(",\"values\":[");
    for (int i = 0; i < d.n_hints; ++i) {
        if (i) out->put(',');
        put_hint(out, d.hints[i]);
    }
    out->lit("]}");
}

void put_findings(JsonText *out, const CheckFindings &f) {
    out->lit("{\"record\":\"check\",\"schema\":1");
    put_key(out, "verdict");
    out->put_string(f.verdict);
    put_key(out, "trace");
    out->put_string(f.trace);
    put_key(out, "tolerance");
    if (f.tolerance < 0) {
        out->lit("null");
    } else {
        out->put_number(f.tolerance);
    }
    put_count(out, "runs", f.n_runs);
    put_count(out, "compared", f.counts.compared);
    put_count(out, "equal", f.counts.equal);
    put_count(out, "within", f.counts.within);
    put_count(out, "different", f.counts.different);
    put_count(out, "not_in_trace", f.counts.missing);
    put_count(out, "not_reached", f.counts.not_reached);
    put_key(out, "preflight");
    out->put('[');
    if (f.n_preflight_bytes) out->put(f.preflight, f.n_preflight_bytes);
    out->put(']');
    put_key(out, "first_divergence");
    if (f.first) {
        put_difference(out, *f.first, f.text);
    } else {
        out->lit("null");
    }
    out->lit("}\n");
}

bool fail(CheckReport *report, const char *what, int error) {
    snprintf(report->reason, sizeof report->reason, "%s the report '%.200s': %s", what, report->path,
             strerrordesc_np(error));
    return false;
}

}  // namespace

bool report_begin(CheckReport *report, const char *pattern, size_t n_bytes) {
    char wanted[kPathBytes], path[2 * kPathBytes] = "";
    if (!expand_path(pattern, n_bytes, wanted, report->reason)) return false;
    // Absolute: it is written again when the process may be in another folder.
    if (wanted[0] != '/' && !getcwd(path, kPathBytes)) {
        snprintf(report->reason, sizeof report->reason, "no working directory for the report '%.200s'", wanted);
        return false;
    }
    const size_t n = strlen(path);
    snprintf(path + n, sizeof path - n, "%s%s", n ? "/" : "", wanted);
    report->path = strlen(path) < kPathBytes - 16 ? claim_path(path) : nullptr;
    if (!report->path) snprintf(report->reason, sizeof report->reason, "report: path is too long, or out of memory");
    return report->path;
}

bool report_write(CheckReport *report, const CheckFindings &findings) {
    if (!report->path) return true;
    JsonText text;
    put_findings(&text, findings);
    if (text.failed) {
        free(text.data);
        snprintf(report->reason, sizeof report->reason, "out of memory for the report");
        return false;
    }
    // A reader never sees half of it.
    char temporary[kPathBytes + 8];
    snprintf(temporary, sizeof temporary, "%s.part", report->path);
    const int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    bool good = fd >= 0;
    if (good) {
        errno = 0;
        good = write_quietly(fd, text.data, text.n) == text.n;
        const int error = errno;
        good = close(fd) == 0 && good && rename(temporary, report->path) == 0;
        if (error) errno = error;
    }
    free(text.data);
    if (good) return true;
    const int error = errno;
    if (fd >= 0) unlink(temporary);
    return fail(report, "cannot write", error);
}

void report_end(CheckReport *report) {
    release_path(report->path, false);
    report->path = nullptr;
}

}  // namespace bitnet
