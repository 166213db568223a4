//! A program over what bindgen makes of the installed header alone: tokenises, evaluates, and writes the ids to one file and the
//! logits of every position to another, as the machine holds them. usage: standalone MODEL TEXT IDS LOGITS
#![allow(non_camel_case_types, non_upper_case_globals, dead_code)]

include!(env!("BINDINGS"));

use std::ffi::{CStr, CString};
use std::io::Write;
use std::{env, fs, mem, process, ptr, slice};

fn check(status: bitnet_status_t) {
    if status != 0 {
        let text = unsafe { CStr::from_ptr(bitnet_last_error()) };
        eprintln!("standalone: {}", text.to_string_lossy());
        process::exit(2);
    }
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let path = CString::new(arguments[1].as_str()).unwrap();
    let text = arguments[2].as_bytes();
    unsafe {
        let (mut model, mut context) = (ptr::null_mut(), ptr::null_mut());
        check(bitnet_load(path.as_ptr(), ptr::null(), &mut model));
        check(bitnet_context_create(model, ptr::null(), &mut context));
        let mut info: bitnet_model_info_t = mem::zeroed();
        info.struct_size = mem::size_of::<bitnet_model_info_t>() as u32;
        check(bitnet_model_get_info(model, &mut info));

        let mut n = bitnet_tokenize_bound(text.len() as _);
        let mut tokens = vec![0i32; n as usize];
        check(bitnet_tokenize_text(
            model,
            text.as_ptr().cast(),
            text.len() as _,
            BITNET_TOKENIZE_ADD_BOS,
            tokens.as_mut_ptr(),
            &mut n,
        ));
        tokens.truncate(n as usize);
        let ids: Vec<String> = tokens.iter().map(i32::to_string).collect();
        fs::write(&arguments[3], ids.join(" ")).unwrap();

        let mut params: bitnet_eval_params_t = mem::zeroed();
        params.struct_size = mem::size_of::<bitnet_eval_params_t>() as u32;
        params.logits = BITNET_LOGITS_ALL;
        check(bitnet_eval_tokens(context, tokens.as_ptr(), tokens.len() as _, &params));
        let mut out = fs::File::create(&arguments[4]).unwrap();
        for row in 0..bitnet_logits_count(context) {
            let logits = bitnet_get_logits_ith(context, row);
            assert!(!logits.is_null());
            out.write_all(slice::from_raw_parts(logits.cast::<u8>(), info.n_vocab as usize * 4)).unwrap();
        }
        bitnet_context_free(context);
        bitnet_model_free(model);
    }
}
