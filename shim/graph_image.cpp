#include "shim/graph_image.h"

#include <cstdlib>
#include <cstring>

namespace bitnet::shim {

namespace {

constexpr int kParams = 6;         // the last that is read is the sixth, a ROPE's base
constexpr size_t kNameBytes = 64;  // longer names are no weights' that we know

struct Name {
    char text[kNameBytes];
};

struct SeenTensor {
    const Tensor *tensor, *view_src;
    const Tensor *src[kSourcesMax];
    int64_t ne[4];
    size_t nb[4];
    uint32_t op, type;
    int32_t params[kParams];
    uint32_t name;    // of a leaf: its place among the names, from 1
    bool has_params;  // what they are is of interest
};

void look_at(Engine &engine, const Tensor *tensor, SeenTensor *out) {
    memset(out, 0, sizeof *out);
    const Layout &layout = engine.layout;
    out->tensor = tensor;
    out->view_src = engine.view_src(tensor);
    for (int i = 0; i < kSourcesMax; ++i) out->src[i] = engine.src(tensor, i);
    memcpy(out->ne, engine.ne(tensor), sizeof out->ne);
    memcpy(out->nb, engine.nb(tensor), sizeof out->nb);
    out->op = *engine.at<uint32_t>(tensor, layout.op);
    out->type = *engine.at<uint32_t>(tensor, layout.type);
    // A view's are where it begins: it moves through the cache from token to token, and no stage depends on it.
    out->has_params = engine.op(tensor) != Op::move;
    if (out->has_params) memcpy(out->params, engine.at<int32_t>(tensor, layout.op_params), sizeof out->params);
}

bool same(Engine &engine, const SeenTensor &seen) {
    const Tensor *tensor = seen.tensor;
    const Layout &layout = engine.layout;
    for (int i = 0; i < kSourcesMax; ++i) {
        if (engine.src(tensor, i) != seen.src[i]) return false;
    }
    return *engine.at<uint32_t>(tensor, layout.op) == seen.op &&
           *engine.at<uint32_t>(tensor, layout.type) == seen.type && engine.view_src(tensor) == seen.view_src &&
           memcmp(engine.ne(tensor), seen.ne, sizeof seen.ne) == 0 &&
           memcmp(engine.nb(tensor), seen.nb, sizeof seen.nb) == 0 &&
           (!seen.has_params ||
            memcmp(engine.at<int32_t>(tensor, layout.op_params), seen.params, sizeof seen.params) == 0);
}

class Taker {
public:
    Taker(GraphImage *image, Engine *engine) : image_(image), e_(*engine) {}

    bool run(Graph *graph, int n_nodes) {
        if (!make_table(size_t(n_nodes) * 4)) return false;
        for (int i = 0; i < n_nodes; ++i) {
            const Tensor *node = e_.graph_node(graph, i);
            if (!node || !add(node) || n_ != size_t(i) + 1) return false;
        }
        for (size_t i = 0; i < n_; ++i) {
            const SeenTensor seen = tensors()[i];  // a copy: the list moves when it grows
            if (seen.view_src && !add(seen.view_src)) return false;
            for (const Tensor *source : seen.src) {
                if (source && !add(source)) return false;
            }
        }
        image_->n_tensors = n_;
        return true;
    }

private:
    SeenTensor *tensors() { return static_cast<SeenTensor *>(image_->tensors.data); }

    static bool has_room(Buffered *memory, size_t n_bytes) {
        return n_bytes <= memory->capacity || memory->get(2 * n_bytes);
    }

    bool make_table(size_t n) {
        size_t n_places = 1024;
        while (n_places < n) n_places *= 2;
        table_ = static_cast<const Tensor **>(image_->table.get(n_places * sizeof *table_));
        if (table_) memset(table_, 0, n_places * sizeof *table_);
        mask_ = n_places - 1;
        return table_;
    }

    // False: out of memory, or a name that is not understood. Nothing when it is there already.
    bool add(const Tensor *tensor) {
        size_t at = (reinterpret_cast<uintptr_t>(tensor) >> 4) * 0x9E3779B97F4A7C15u >> 20 & mask_;
        for (; table_[at]; at = (at + 1) & mask_) {
            if (table_[at] == tensor) return true;
        }
        if (2 * n_ > mask_) return false;  // the table is made for more than any known graph has
        table_[at] = tensor;
        if (!has_room(&image_->tensors, (n_ + 1) * sizeof(SeenTensor))) return false;
        SeenTensor *seen = &tensors()[n_++];
        look_at(e_, tensor, seen);
        if (e_.op(tensor) != Op::leaf) return true;
        if (!has_room(&image_->names, (n_names_ + 1) * sizeof(Name))) return false;
        Name *name = static_cast<Name *>(image_->names.data) + n_names_;
        seen->name = uint32_t(++n_names_);
        const char *text = e_.get_name(tensor);
        if (!text || strnlen(text, kNameBytes) == kNameBytes) return false;
        memset(name, 0, sizeof *name);
        strcpy(name->text, text);
        return true;
    }

    GraphImage *image_;
    Engine &e_;
    const Tensor **table_ = nullptr;
    size_t mask_ = 0, n_ = 0, n_names_ = 0;
};

}  // namespace

void image_forget(GraphImage *image) {
    image->graph = nullptr;
    image->n_nodes = 0;
    image->n_tensors = 0;
}

void image_free(GraphImage *image) {
    free(image->tensors.data);
    free(image->names.data);
    free(image->table.data);
    *image = {};
}

void image_take(GraphImage *image, Engine *engine, Graph *graph) {
    image_forget(image);
    const int n_nodes = engine->graph_n_nodes(graph);
    if (n_nodes <= 0 || !Taker(image, engine).run(graph, n_nodes)) return image_forget(image);
    image->graph = graph;
    image->n_nodes = n_nodes;
}

bool image_matches(const GraphImage &image, Engine *engine, Graph *graph) {
    if (!image.n_tensors || image.graph != graph || engine->graph_n_nodes(graph) != image.n_nodes) return false;
    const SeenTensor *tensors = static_cast<const SeenTensor *>(image.tensors.data);
    const Name *names = static_cast<const Name *>(image.names.data);
    for (size_t i = 0; i < image.n_tensors; ++i) {
        const SeenTensor &seen = tensors[i];
        if (i < size_t(image.n_nodes) && engine->graph_node(graph, int(i)) != seen.tensor) return false;
        if (!same(*engine, seen)) return false;
        if (seen.name && strcmp(engine->get_name(seen.tensor), names[seen.name - 1].text) != 0) return false;
    }
    return true;
}

}  // namespace bitnet::shim
