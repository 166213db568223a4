// A client of the three interfaces that BitNet-rs uses, written from their prototypes alone: tokens and logits of a prompt by
// bitnet-sys's C interface, by crossval's and by llama.cpp's. Standard library only; any rustc from 1.63 on.
//
// Usage: client MODEL PROMPT N_NEW FOLDER [INTERFACE]    prints "<interface> <tokens>", writes FOLDER/<interface>.f32, little-endian rows
#![allow(non_camel_case_types)]

use std::ffi::CString;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;

#[repr(C)]
pub struct bitnet_params_t {
    n_ctx: i32,
    n_threads: i32,
    seed: i32,
    rope_freq: f32,
}
#[repr(C)]
pub struct opaque {
    _private: [u8; 0],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_model_params {
    n_gpu_layers: i32,
    vocab_only: bool,
    use_mmap: bool,
    use_mlock: bool,
    check_tensors: bool,
}
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_context_params {
    n_ctx: u32,
    n_batch: u32,
    n_ubatch: u32,
    n_seq_max: u32,
    n_threads: i32,
    n_threads_batch: i32,
    logits_all: bool,
    embeddings: bool,
    offload_kqv: bool,
    flash_attn: bool,
}
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_batch {
    n_tokens: i32,
    token: *mut i32,
    embd: *mut f32,
    pos: *mut i32,
    n_seq_id: *mut i32,
    seq_id: *mut *mut i32,
    logits: *mut i8,
}

extern "C" {
    // bitnet-sys
    fn bitnet_model_new_from_file(path: *const c_char) -> *mut opaque;
    fn bitnet_model_free(model: *mut opaque);
    fn bitnet_context_new(model: *mut opaque, params: *const bitnet_params_t) -> *mut opaque;
    fn bitnet_context_free(ctx: *mut opaque);
    fn bitnet_tokenize(model: *mut opaque, text: *const c_char, add_bos: c_int, parse_special: c_int, out: *mut i32,
                       cap: c_int) -> c_int;
    fn bitnet_eval(ctx: *mut opaque, ids: *const i32, n: c_int, logits: *mut f32, cap: c_int) -> c_int;
    fn bitnet_prefill(ctx: *mut opaque, ids: *const i32, n: c_int) -> c_int;
    fn bitnet_vocab_size(ctx: *mut opaque) -> c_int;
    fn bitnet_decode_greedy(model: *mut opaque, ctx: *mut opaque, eos: c_int, eot: c_int, max: c_int, out: *mut c_int,
                            cap: c_int) -> c_int;

    // crossval
    fn bitnet_cpp_create_model(path: *const c_char) -> *mut c_void;
    fn bitnet_cpp_destroy_model(model: *mut c_void);
    fn bitnet_cpp_generate(model: *mut c_void, prompt: *const c_char, max: c_int, out: *mut u32, n: *mut c_int) -> c_int;
    fn crossval_bitnet_tokenize(path: *const c_char, prompt: *const c_char, add_bos: c_int, parse_special: c_int,
                                out: *mut i32, cap: i32, len: *mut i32, err: *mut c_char, err_len: i32) -> c_int;
    fn crossval_bitnet_eval_with_tokens(path: *const c_char, tokens: *const i32, n: i32, n_ctx: i32, out: *mut f32, cap: i32,
                                        rows: *mut i32, cols: *mut i32, err: *mut c_char, err_len: i32) -> c_int;
    fn bitnet_cpp_init_context(out: *mut *mut opaque, path: *const c_char, n_ctx: i32, n_gpu_layers: i32, err: *mut c_char,
                               err_len: i32) -> c_int;
    fn bitnet_cpp_free_context(ctx: *mut opaque) -> c_int;
    fn bitnet_cpp_get_position(ctx: *const opaque) -> i32;
    fn bitnet_cpp_tokenize_with_context(ctx: *const opaque, prompt: *const c_char, add_bos: c_int, parse_special: c_int,
                                        out: *mut i32, cap: i32, len: *mut i32, err: *mut c_char, err_len: i32) -> c_int;
    fn bitnet_cpp_eval_with_context(ctx: *mut opaque, tokens: *const i32, n: i32, seq_id: i32, out: *mut f32, cap: i32,
                                    rows: *mut i32, cols: *mut i32, err: *mut c_char, err_len: i32) -> c_int;

    // llama.cpp, as its llama.h without BITNET_AVAILABLE
    fn llama_backend_init();
    fn llama_backend_free();
    fn llama_model_default_params() -> llama_model_params;
    fn llama_load_model_from_file(path: *const c_char, params: llama_model_params) -> *mut opaque;
    fn llama_free_model(model: *mut opaque);
    fn llama_context_default_params() -> llama_context_params;
    fn llama_new_context_with_model(model: *mut opaque, params: llama_context_params) -> *mut opaque;
    fn llama_free(ctx: *mut opaque);
    fn llama_get_model(ctx: *const opaque) -> *mut opaque;
    fn llama_n_vocab(model: *const opaque) -> i32;
    fn llama_tokenize(model: *const opaque, text: *const c_char, len: i32, tokens: *mut i32, max: i32, add_special: bool,
                      parse_special: bool) -> i32;
    fn llama_batch_init(n: i32, embd: i32, n_seq_max: i32) -> llama_batch;
    fn llama_batch_free(batch: llama_batch);
    fn llama_decode(ctx: *mut opaque, batch: llama_batch) -> i32;
    fn llama_get_logits(ctx: *mut opaque) -> *mut f32;
    fn llama_get_logits_ith(ctx: *mut opaque, i: i32) -> *mut f32;
    fn llama_get_kv_cache_token_count(ctx: *const opaque) -> i32;
}

struct Result {
    tokens: Vec<i32>,
    logits: Vec<f32>,
    new_tokens: Vec<i32>,
}

// The row of every position: each prefix evaluated from the start, as this interface gives the last row alone.
unsafe fn by_bitnet_sys(path: &CString, prompt: &CString, n_new: usize) -> Result {
    let model = bitnet_model_new_from_file(path.as_ptr());
    assert!(!model.is_null());
    let params = bitnet_params_t { n_ctx: 256, n_threads: 1, seed: 0, rope_freq: 1.0 };
    let ctx = bitnet_context_new(model, &params);
    assert!(!ctx.is_null());
    let n = bitnet_tokenize(model, prompt.as_ptr(), 1, 0, ptr::null_mut(), 0);
    assert!(n > 0);
    let mut tokens = vec![0i32; n as usize];
    assert_eq!(bitnet_tokenize(model, prompt.as_ptr(), 1, 0, tokens.as_mut_ptr(), n), n);
    let n_vocab = bitnet_vocab_size(ctx) as usize;
    let mut logits = vec![0f32; tokens.len() * n_vocab];
    for i in 0..tokens.len() {
        let row = &mut logits[i * n_vocab..(i + 1) * n_vocab];
        assert_eq!(bitnet_eval(ctx, tokens.as_ptr(), i as c_int + 1, row.as_mut_ptr(), n_vocab as c_int), 0);
    }
    assert_eq!(bitnet_prefill(ctx, tokens.as_ptr(), n), 0);
    let mut new_tokens = vec![0i32; n_new];
    assert_eq!(bitnet_decode_greedy(model, ctx, -1, -1, n_new as c_int, new_tokens.as_mut_ptr(), n_new as c_int), n_new as c_int);
    bitnet_model_free(model);
    bitnet_context_free(ctx);
    Result { tokens, logits, new_tokens }
}

unsafe fn by_crossval(path: &CString, prompt: &CString, n_new: usize) -> Result {
    let mut err = vec![0u8; 512];
    let (mut n, mut rows, mut cols) = (0i32, 0i32, 0i32);
    let e = err.as_mut_ptr() as *mut c_char;
    assert_eq!(crossval_bitnet_tokenize(path.as_ptr(), prompt.as_ptr(), 1, 0, ptr::null_mut(), 0, &mut n, e, 512), 0);
    let mut tokens = vec![0i32; n as usize];
    assert_eq!(crossval_bitnet_tokenize(path.as_ptr(), prompt.as_ptr(), 1, 0, tokens.as_mut_ptr(), n, &mut n, e, 512), 0);
    let shape = crossval_bitnet_eval_with_tokens(path.as_ptr(), tokens.as_ptr(), n, 256, ptr::null_mut(), 0, &mut rows,
                                                 &mut cols, e, 512);
    assert_eq!((shape, rows), (0, n));
    let mut logits = vec![0f32; (rows * cols) as usize];
    assert_eq!(crossval_bitnet_eval_with_tokens(path.as_ptr(), tokens.as_ptr(), n, 256, logits.as_mut_ptr(), rows * cols,
                                                &mut rows, &mut cols, e, 512), 0);
    let model = bitnet_cpp_create_model(path.as_ptr());
    let (mut made, mut count) = (vec![0u32; n_new], 0);
    assert_eq!(bitnet_cpp_generate(model, prompt.as_ptr(), n_new as c_int, made.as_mut_ptr(), &mut count), 0);
    bitnet_cpp_destroy_model(model);
    made.truncate(count as usize);
    Result { tokens, logits, new_tokens: made.iter().map(|&t| t as i32).collect() }
}

// The prompt in two parts, the second after the first; then greedily, token by token.
unsafe fn by_context(path: &CString, prompt: &CString, n_new: usize) -> Result {
    let mut err = vec![0u8; 512];
    let e = err.as_mut_ptr() as *mut c_char;
    let mut ctx: *mut opaque = ptr::null_mut();
    assert_eq!(bitnet_cpp_init_context(&mut ctx, path.as_ptr(), 256, 0, e, 512), 0);
    let (mut n, mut rows, mut cols) = (0i32, 0i32, 0i32);
    assert_eq!(bitnet_cpp_tokenize_with_context(ctx, prompt.as_ptr(), 1, 0, ptr::null_mut(), 0, &mut n, e, 512), 0);
    let mut tokens = vec![0i32; n as usize];
    assert_eq!(bitnet_cpp_tokenize_with_context(ctx, prompt.as_ptr(), 1, 0, tokens.as_mut_ptr(), n, &mut n, e, 512), 0);
    let mut logits = Vec::new();
    let mut eval = |part: &[i32]| {
        let size = bitnet_cpp_eval_with_context(ctx, part.as_ptr(), part.len() as i32, 0, ptr::null_mut(), 0, &mut rows, &mut cols, e, 512);
        assert_eq!((size, rows as usize), (0, part.len()));
        let mut out = vec![0f32; (rows * cols) as usize];
        assert_eq!(bitnet_cpp_eval_with_context(ctx, part.as_ptr(), part.len() as i32, 0, out.as_mut_ptr(), rows * cols,
                                                &mut rows, &mut cols, e, 512), 0);
        (out, cols as usize)
    };
    let half = tokens.len() / 2;
    let mut last = Vec::new();
    for part in [&tokens[..half], &tokens[half..]] {
        let (out, n_vocab) = eval(part);
        last = out[out.len() - n_vocab..].to_vec();
        logits.extend(out);
    }
    let mut new_tokens = Vec::new();
    while new_tokens.len() < n_new {
        new_tokens.push(argmax(&last));
        last = eval(&new_tokens[new_tokens.len() - 1..]).0;
    }
    assert_eq!(bitnet_cpp_get_position(ctx) as usize, tokens.len() + n_new);
    assert_eq!(bitnet_cpp_free_context(ctx), 0);
    Result { tokens, logits, new_tokens }
}

fn argmax(row: &[f32]) -> i32 {
    let mut best = 0;
    for i in 1..row.len() {
        if row[i] > row[best] {
            best = i;
        }
    }
    best as i32
}

unsafe fn by_llama(path: &CString, prompt: &CString, n_new: usize) -> Result {
    llama_backend_init();
    let model = llama_load_model_from_file(path.as_ptr(), llama_model_default_params());
    assert!(!model.is_null());
    let mut params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_threads = 1;
    params.n_threads_batch = 1;
    params.logits_all = true;
    let ctx = llama_new_context_with_model(model, params);
    assert!(!ctx.is_null() && llama_get_model(ctx) == model);
    let length = prompt.as_bytes().len() as i32;
    let n = llama_tokenize(model, prompt.as_ptr(), length, ptr::null_mut(), 0, true, false);
    assert!(n > 0);
    let mut tokens = vec![0i32; n as usize];
    assert_eq!(llama_tokenize(model, prompt.as_ptr(), length, tokens.as_mut_ptr(), n, true, false), n);
    let n_vocab = llama_n_vocab(model) as usize;
    let decode = |part: &[i32]| {
        let mut batch = llama_batch_init(part.len() as i32, 0, 1);
        let mut own = [0i32; 1];  // on the stack: freeing the batch must leave it alone
        for (i, &token) in part.iter().enumerate() {
            *batch.token.add(i) = token;
            *batch.pos.add(i) = llama_get_kv_cache_token_count(ctx) + i as i32;
            *batch.n_seq_id.add(i) = 1;
            *batch.seq_id.add(i) = own.as_mut_ptr();
            *batch.logits.add(i) = 1;
        }
        batch.n_tokens = part.len() as i32;
        assert_eq!(llama_decode(ctx, batch), 0);
        llama_batch_free(batch);
    };
    decode(&tokens);
    let row = |p: *const f32| std::slice::from_raw_parts(p, n_vocab).to_vec();
    let mut logits = Vec::new();
    for i in 0..n {
        logits.extend(row(llama_get_logits_ith(ctx, i)));
    }
    let mut new_tokens = Vec::new();
    while new_tokens.len() < n_new {
        new_tokens.push(argmax(&row(llama_get_logits(ctx))));
        decode(&new_tokens[new_tokens.len() - 1..]);
    }
    llama_free_model(model);
    llama_free(ctx);
    llama_backend_free();
    Result { tokens, logits, new_tokens }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let path = CString::new(arguments[1].as_str()).unwrap();
    let prompt = CString::new(arguments[2].as_str()).unwrap();
    let n_new: usize = arguments[3].parse().unwrap();
    type Interface = unsafe fn(&CString, &CString, usize) -> Result;
    let interfaces: [(&str, Interface); 4] =
        [("bitnet-sys", by_bitnet_sys), ("crossval", by_crossval), ("context", by_context), ("llama", by_llama)];
    for (name, interface) in interfaces.iter() {
        if arguments.len() > 5 && arguments[5] != *name {
            continue;
        }
        let result = unsafe { interface(&path, &prompt, n_new) };
        let bytes: Vec<u8> = result.logits.iter().flat_map(|x| x.to_le_bytes().to_vec()).collect();
        std::fs::write(format!("{}/{}.f32", arguments[4], name), bytes).unwrap();
        let join = |ids: &[i32]| ids.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(",");
        println!("{} {} {}", name, join(&result.tokens), join(&result.new_tokens));
    }
}
