#include "abi/cli/report/page.h"

#include <algorithm>

#include "abi/cli/report/html.h"
#include "abi/cli/report/sections.h"
#include "abi/cli/report/style.h"
#include "abi/cli/terminal.h"
#include "bitnet_c.h"

namespace bitnet::report {

namespace {

const Part &leading(const std::vector<Part> &parts) {
    // Errors first, then the verdicts in the order of what they explain.
    return *std::max_element(parts.begin(), parts.end(),
                             [](const Part &a, const Part &b) { return a.exit_code < b.exit_code; });
}

std::string upper(std::string text) {
    for (char &c : text) c = char(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    return text;
}

// An error begins with the name of a file, which stays as it is.
std::string capital(std::string text, int exit_code) {
    if (exit_code != 2 && !text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = char(text[0] - 'a' + 'A');
    if (!text.empty() && text.back() != '.') text += '.';
    return text;
}

class Assembly {
public:
    explicit Assembly(const Documents &documents) : documents_(documents) {
        if (documents.explain.json) explain_.emplace(*documents.explain.json, documents.explain.place);
        if (documents.diff.json) diff_.emplace(*documents.diff.json, documents.diff.place);
        if (documents.crossval.json) {
            const Saved saved(*documents.crossval.json, documents.crossval.place);
            crossval_ = documents.crossval_is_receipt ? read_receipt(saved) : read_crossval(saved);
            classes_ = classes_of(saved);
        }
        // In this order: of equal verdicts the one that knows the cause is the sentence.
        if (explain_) parts_.push_back(explain_part(*explain_));
        if (diff_) parts_.push_back(diff_part(*diff_));
        if (crossval_) parts_.push_back(crossval_part(*crossval_));
        if (parts_.empty()) throw CommandError("nothing to report");
    }

    Page make() {
        const Part &lead = leading(parts_);
        page_.exit_code = lead.exit_code;
        page_.verdict = crossval::verdict_name(lead.exit_code);
        page_.sentence = lead.sentence;
        // Before any number: a comparison of different things is the verdict.
        const bool mismatch_leads = diff_ && has_mismatch();
        if (mismatch_leads) add(diff_preflight(*diff_));
        explain_sections();
        diff_sections(mismatch_leads);
        if (crossval_) add(crossval_section(*crossval_, classes_));
        absences();
        page_.html = head() + header(lead) + "<main>\n" + body_ + "</main>\n" + footer() + "</body>\n</html>\n";
        page_.svg = svg_file(upper(page_.verdict) + ": " + capital(page_.sentence, page_.exit_code), figures_);
        return std::move(page_);
    }

private:
    void add(const Section &section) {
        body_ += "<section>\n" + section.html + "</section>\n";
        figures_.insert(figures_.end(), section.figures.begin(), section.figures.end());
    }

    // Whole comparisons that are not there.
    void absences() {
        std::string lines;
        const auto say = [&](const Document &document, const char *what) {
            if (!document.json) lines += "<li>Not recorded: " + escaped(document.why_absent) + what + "</li>\n";
        };
        say(documents_.diff, ", so nothing is known of layers and stages.");
        say(documents_.explain, ", so no operation could be computed again and no cause be tried.");
        say(documents_.crossval, ".");
        if (!lines.empty())
            body_ += "<section>\n" + heading("Not in this report", "") + "<ul class=\"lines\">\n" + lines +
                     "</ul>\n</section>\n";
    }

    bool has_mismatch() const {
        for (const Saved &fact : diff_->list("preflight"))
            if (fact.flag("mismatch")) return true;
        return false;
    }

    void explain_sections() {
        if (!explain_) return;
        add(explain_causes(*explain_));
        add(explain_map(*explain_));
    }

    void diff_sections(bool preflight_is_there) {
        if (!diff_) return;
        add(diff_maps(*diff_));
        add(diff_growth(*diff_));
        add(diff_logits(*diff_));
        add(diff_first(*diff_));
        if (diff_->has("envelope")) add(diff_envelope(*diff_));
        if (!preflight_is_there) add(diff_preflight(*diff_));
        add(diff_counts(*diff_));
    }

    std::string title() const {
        if (!documents_.title.empty()) return documents_.title;
        if (diff_) return "bitnet report: " + diff_->at("a").text("path") + " and " + diff_->at("b").text("path");
        if (explain_) return "bitnet report: " + explain_->at("trace").text("path");
        return "bitnet report: " + crossval_->model_path + " and " + crossval_->against;
    }

    std::string head() const {
        return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
               "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
               // Nothing is ever loaded: if something untrusted got through, the browser would refuse it.
               "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
               "'unsafe-inline'\"/>\n"
               "<meta name=\"color-scheme\" content=\"light dark\"/>\n<title>" +
               escaped_cut(upper(page_.verdict) + ": " + title(), 300) + "</title>\n<style>" + theme_css + page_css +
               "</style>\n</head>\n<body>\n";
    }

    std::string header(const Part &lead) const {
        std::string html = "<header class=\"" + page_.verdict + "\">\n<p class=\"kind\">" + escaped_cut(title(), 600) +
                           "</p>\n<div class=\"verdict\"><h1><b>" + upper(page_.verdict) + "</b> " +
                           escaped_sentence(capital(lead.sentence, lead.exit_code), 2000) + "</h1>\n";
        std::string others;
        for (const Part &part : parts_)
            if (&part != &lead)
                others += "<li>" + escaped(part.name) + ": " + tag(part.exit_code) + " &#8211; " +
                          escaped_sentence(capital(part.sentence, part.exit_code), 1000) + "</li>\n";
        if (!others.empty()) html += "<ul class=\"parts\">\n" + others + "</ul>\n";
        html += "</div>\n<dl class=\"tiles\">\n";
        for (const Part &part : parts_)
            for (const Tile &tile : part.tiles)
                html += "<div><dt>" + tile.name + "</dt><dd>" + tile.value +
                        (tile.note.empty() ? "" : "<small>" + tile.note + "</small>") + "</dd></div>\n";
        return html + "</dl>\n</header>\n";
    }

    std::string footer() const {
        std::string from;
        for (const Document *document : {&documents_.diff, &documents_.explain, &documents_.crossval})
            if (document->json) from += (from.empty() ? "" : ", ") + code(document->place);
        return "<footer>Written by bitnet " + escaped(bitnet_version()) + " from " + from +
               ". The page is complete in itself: it loads nothing, and every value of a figure stands in a table "
               "below it.</footer>\n";
    }

    const Documents &documents_;
    std::optional<Saved> diff_, explain_;
    std::optional<crossval::Report> crossval_;
    std::vector<std::string> classes_;
    std::vector<Part> parts_;
    std::vector<Figure> figures_;
    std::string body_;
    Page page_;
};

}  // namespace

Page make_page(const Documents &documents) { return Assembly(documents).make(); }

void Section::add(const Figure &figure, const std::string &caption) {
    figures.push_back(figure);
    html += "<figure>\n" + figure.element() + (caption.empty() ? "" : "<figcaption>" + caption + "</figcaption>\n") +
            "</figure>\n";
}

std::string heading(const std::string &text, const std::string &lead) {
    return "<h2>" + escaped(text) + "</h2>\n" + (lead.empty() ? "" : "<p class=\"lead\">" + lead + "</p>\n");
}

std::string absent(const std::string &text, const std::string &why) {
    return "<section>\n" + heading(text, "") + "<p class=\"none\">Not recorded: " + escaped(why) +
           ".</p>\n</section>\n";
}

std::string tag(int exit_code) {
    const std::string name = crossval::verdict_name(exit_code);
    return "<span class=\"" + name + "\"><span class=\"tag\">" + name + "</span></span>";
}

int exit_of(const Saved &document) {
    const int64_t code = document.integer("exit");
    if (code < 0 || code > 2) document.at("exit").fail("0, 1 or 2");
    return int(code);
}

}  // namespace bitnet::report
