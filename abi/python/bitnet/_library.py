"""Declarations of include/bitnet_c.h. Written by abi/python/generate.py: change the header, then run it again."""
# fmt: off
from __future__ import annotations

from ctypes import CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_double, c_float, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Dict, List, Tuple

BITNET_ABI_MAJOR = 1
BITNET_ABI_MINOR = 0
BITNET_ABI_VERSION = 65536
BITNET_OK = 0
BITNET_E_INVALID = -1
BITNET_E_NOMEM = -2
BITNET_E_IO = -3
BITNET_E_FORMAT = -4
BITNET_E_UNSUPPORTED = -5
BITNET_E_BUFFER = -6
BITNET_E_ISA = -7
BITNET_E_ABI = -8
BITNET_E_PLUGIN = -9
BITNET_E_BUSY = -10
BITNET_E_OVERFLOW = -11
BITNET_E_CANCELLED = -12
BITNET_E_USER = -13
BITNET_E_INTERNAL = -14
BITNET_LOG_ERROR = 1
BITNET_LOG_WARN = 2
BITNET_LOG_INFO = 3
BITNET_LOAD_COPY = 1
BITNET_LOAD_UNCHECKED_CODES = 2
BITNET_KV_DEFAULT = 0
BITNET_KV_F32 = 1
BITNET_KV_F16 = 2
BITNET_HEAD_FULL = 0
BITNET_HEAD_CERTIFIED = 1
BITNET_WEIGHTS_IN_PLACE = 0
BITNET_WEIGHTS_DENSE = 1
BITNET_TOKENIZE_ADD_BOS = 1
BITNET_TOKENIZE_PARSE_SPECIAL = 2
BITNET_DETOKENIZE_SPECIAL = 1
BITNET_TOKEN_NORMAL = 1
BITNET_TOKEN_UNKNOWN = 2
BITNET_TOKEN_CONTROL = 3
BITNET_TOKEN_USER_DEFINED = 4
BITNET_TOKEN_UNUSED = 5
BITNET_TOKEN_BYTE = 6
BITNET_SPECIAL_BOS = 0
BITNET_SPECIAL_EOS = 1
BITNET_SPECIAL_EOT = 2
BITNET_SPECIAL_PAD = 3
BITNET_LOGITS_LAST = 0
BITNET_LOGITS_ALL = 1
BITNET_LOGITS_NONE = 2
BITNET_GENERATE_IGNORE_END = 1
BITNET_STAGE_EMBEDDINGS = 1
BITNET_STAGE_ATTN_NORM = 2
BITNET_STAGE_Q_PROJ = 3
BITNET_STAGE_K_PROJ = 4
BITNET_STAGE_V_PROJ = 5
BITNET_STAGE_Q_ROPE = 6
BITNET_STAGE_K_ROPE = 7
BITNET_STAGE_ATTN_SCORES = 8
BITNET_STAGE_ATTN_SCORES_SOFTMAX = 9
BITNET_STAGE_ATTN_CONTEXT = 10
BITNET_STAGE_ATTN_SUB_NORM = 11
BITNET_STAGE_ATTN_OUT = 12
BITNET_STAGE_ATTN_RESIDUAL = 13
BITNET_STAGE_FFN_NORM = 14
BITNET_STAGE_FFN_GATE = 15
BITNET_STAGE_FFN_UP = 16
BITNET_STAGE_FFN_ACT = 17
BITNET_STAGE_FFN_SUB_NORM = 18
BITNET_STAGE_FFN_OUT = 19
BITNET_STAGE_LAYER_OUT = 20
BITNET_STAGE_FINAL_NORM = 21
BITNET_STAGE_LOGITS = 22
BITNET_STAGE_COUNT = 22
BITNET_STAGE_CODES = 256
BITNET_STAGE_SCALE = 512
BITNET_STAGE_ACC = 768
BITNET_DTYPE_F32 = 0
BITNET_DTYPE_F16 = 1
BITNET_DTYPE_BF16 = 2
BITNET_DTYPE_I8 = 3
BITNET_DTYPE_I32 = 4
BITNET_EVENT_RUN_BEGIN = 1
BITNET_EVENT_STEP_BEGIN = 2
BITNET_EVENT_TENSOR = 3
BITNET_EVENT_STEP_END = 4
BITNET_EVENT_RUN_END = 5
BITNET_EVENT_KV_STATE = 6
BITNET_EVENT_FLAG_OVERRIDDEN = 1
BITNET_EVENT_FLAG_OVERRIDABLE = 2
BITNET_STATS_TOP = 8
BITNET_SKETCH_BUCKETS = 64
BITNET_METRIC_COSINE = 1
BITNET_METRIC_L2 = 2
BITNET_METRIC_MAX_ABS = 4
BITNET_METRIC_CLOSE = 8
BITNET_METRIC_MSE = 16
BITNET_METRIC_NMSE = 32
BITNET_METRIC_KL = 64
BITNET_METRIC_MEAN_KL = 128
BITNET_METRIC_TOP1 = 256
BITNET_METRIC_TOP_K = 512
BITNET_METRIC_EITHER = 1024
BITNET_METRIC_FINITE = 2048
BITNET_METRIC_ALL = 4095
BITNET_COMPARE_MATCH = 0
BITNET_COMPARE_DIVERGED = 1
BITNET_COMPARE_NOTHING = 2
BITNET_OPERATION_INPUTS = 3
BITNET_EXT_HASH = b"bitnet.hash/1"
BITNET_EXT_STATS = b"bitnet.stats/1"
BITNET_EXT_SKETCH = b"bitnet.sketch/1"
BITNET_EXT_OVERRIDE = b"bitnet.override/1"
BITNET_EXT_LENS = b"bitnet.lens/1"
BITNET_EXT_REFERENCE = b"bitnet.reference/1"
BITNET_EXT_STOP = b"bitnet.stop/1"
BITNET_TRACE_PLUGIN_SYMBOL = b"bitnet_trace_plugin_v1"


bitnet_log_fn = CFUNCTYPE(None, c_void_p, c_int32, c_char_p)


bitnet_progress_fn = CFUNCTYPE(c_int32, c_void_p, c_uint64, c_uint64)


class bitnet_load_params_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("isa", c_char_p),
        ("semantics", c_char_p),
        ("progress", bitnet_progress_fn),
        ("progress_user", c_void_p),
    ]


class bitnet_model_info_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_vocab", c_int32),
        ("n_ctx_train", c_int32),
        ("n_embd", c_int32),
        ("n_layer", c_int32),
        ("n_ff", c_int32),
        ("n_head", c_int32),
        ("n_head_kv", c_int32),
        ("head_dim", c_int32),
        ("n_rot", c_int32),
        ("rms_eps", c_float),
        ("head_tied", c_int32),
        ("rope_theta", c_double),
        ("n_params", c_uint64),
        ("n_bytes", c_uint64),
    ]


class bitnet_tensor_info_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_dims", c_uint32),
        ("dims", c_uint64 * 4),
        ("name", c_char_p),
        ("type_name", c_char_p),
        ("file_offset", c_uint64),
        ("n_bytes", c_uint64),
    ]


class bitnet_context_params_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_ctx", c_int32),
        ("n_threads", c_int32),
        ("n_batch", c_int32),
        ("kv_type", c_uint32),
        ("device_id", c_int32),
        ("head", c_uint32),
        ("weights", c_uint32),
    ]


class bitnet_head_stats_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("n_certified", c_uint64),
        ("n_full", c_uint64),
        ("n_rows_computed", c_uint64),
        ("n_bytes", c_uint64),
        ("build_ns", c_uint64),
    ]


class bitnet_weight_stats_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dense", c_uint32),
        ("n_bytes", c_uint64),
        ("build_ns", c_uint64),
    ]


bitnet_cancel_fn = CFUNCTYPE(c_int32, c_void_p)


class bitnet_eval_params_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("logits", c_uint32),
        ("embeddings", POINTER(c_float)),
        ("cancel", bitnet_cancel_fn),
        ("cancel_user", c_void_p),
    ]


bitnet_token_fn = CFUNCTYPE(c_int32, c_void_p, c_int32, POINTER(c_float), c_int32)


class bitnet_generate_params_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("max_tokens", c_int32),
        ("temperature", c_float),
        ("top_k", c_int32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repeat_penalty", c_float),
        ("repeat_last_n", c_int32),
        ("seed", c_uint64),
        ("stop_tokens", POINTER(c_int32)),
        ("n_stop_tokens", c_size_t),
        ("stop_strings", POINTER(c_char_p)),
        ("n_stop_strings", c_size_t),
        ("flags", c_uint32),
        ("reserved", c_uint32),
        ("on_token", bitnet_token_fn),
        ("on_token_user", c_void_p),
    ]


class bitnet_event_t(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("type", c_uint32),
        ("flags", c_uint32),
        ("layer", c_int32),
        ("position", c_int32),
        ("run", c_uint32),
        ("seq", c_uint64),
        ("time_ns", c_uint64),
    ]


class bitnet_run_begin_event_t(Structure):
    _fields_ = [
        ("header", bitnet_event_t),
        ("engine", c_char_p),
        ("engine_version", c_char_p),
        ("model_path", c_char_p),
        ("model_hash", c_char_p),
        ("architecture", c_char_p),
        ("hyperparameters", c_char_p),
        ("semantics", c_char_p),
        ("isa", c_char_p),
        ("kv_type", c_char_p),
        ("selection", c_char_p),
        ("prompt", c_void_p),
        ("n_prompt_bytes", c_uint64),
        ("n_threads", c_int32),
        ("n_batch", c_int32),
        ("tokens", POINTER(c_int32)),
        ("n_tokens", c_uint64),
    ]


class bitnet_step_event_t(Structure):
    _fields_ = [
        ("header", bitnet_event_t),
        ("tokens", POINTER(c_int32)),
        ("n_tokens", c_uint64),
        ("status", c_int32),
        ("reserved", c_uint32),
    ]


class bitnet_kv_state_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_valid", c_int32),
        ("n_max", c_int32),
        ("oldest", c_int32),
        ("n_bytes", c_uint64),
        ("n_bytes_used", c_uint64),
        ("n_hits", c_uint64),
        ("n_misses", c_uint64),
        ("n_evicted", c_uint64),
    ]


class bitnet_kv_event_t(Structure):
    _fields_ = [
        ("header", bitnet_event_t),
        ("kv", bitnet_kv_state_t),
    ]


class bitnet_tensor_input_t(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("stage", c_int32),
        ("dtype", c_int32),
        ("n_dims", c_uint32),
        ("reserved", c_uint32),
        ("shape", c_uint64 * 4),
        ("row_elements", c_uint64),
        ("row_stride", c_uint64),
        ("data", c_void_p),
    ]


class bitnet_tensor_event_t(Structure):
    _fields_ = [
        ("header", bitnet_event_t),
        ("stage", c_int32),
        ("dtype", c_int32),
        ("stage_name", c_char_p),
        ("kernel", c_char_p),
        ("n_rows", c_uint32),
        ("first_row", c_uint32),
        ("n_dims", c_uint32),
        ("n_inputs", c_uint32),
        ("shape", c_uint64 * 4),
        ("row_elements", c_uint64),
        ("row_stride", c_uint64),
        ("data", c_void_p),
        ("ns", c_uint64),
        ("inputs", POINTER(bitnet_tensor_input_t)),
    ]


class bitnet_run_end_event_t(Structure):
    _fields_ = [
        ("header", bitnet_event_t),
        ("n_tensors", c_uint64),
        ("n_rows", c_uint64),
        ("n_tokens", c_uint64),
    ]


class bitnet_trace_host_t(Structure):
    pass


bitnet_trace_host_t._fields_ = [
    ("struct_size", c_uint32),
    ("abi_version", c_uint32),
    ("self", c_void_p),
    ("log", CFUNCTYPE(None, POINTER(bitnet_trace_host_t), c_int32, c_char_p)),
    ("get_extension", CFUNCTYPE(c_void_p, POINTER(bitnet_trace_host_t), c_char_p)),
]


class bitnet_ext_hash_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("blake3", CFUNCTYPE(c_void_p, POINTER(bitnet_trace_host_t), POINTER(bitnet_tensor_event_t), c_uint32)),
        ("multiset", CFUNCTYPE(c_uint64, POINTER(bitnet_trace_host_t), POINTER(bitnet_tensor_event_t), c_uint32)),
    ]


class bitnet_stats_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_top", c_uint32),
        ("n", c_uint64),
        ("n_nan", c_uint64),
        ("n_inf", c_uint64),
        ("n_zero", c_uint64),
        ("mean", c_double),
        ("std", c_double),
        ("rms", c_double),
        ("l2", c_double),
        ("min", c_float),
        ("max", c_float),
        ("absmax", c_float),
        ("min_index", c_uint32),
        ("max_index", c_uint32),
        ("top_index", c_uint32 * 8),
        ("top_value", c_float * 8),
        ("nonfinite_index", c_uint32),
    ]


class bitnet_ext_stats_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("stats", CFUNCTYPE(c_void_p, POINTER(bitnet_trace_host_t), POINTER(bitnet_tensor_event_t), c_uint32)),
    ]


class bitnet_ext_sketch_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("sketch", CFUNCTYPE(c_void_p, POINTER(bitnet_trace_host_t), POINTER(bitnet_tensor_event_t), c_uint32)),
    ]


class bitnet_ext_override_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("replace", CFUNCTYPE(c_int32, POINTER(bitnet_trace_host_t), POINTER(bitnet_tensor_event_t), c_uint32, c_void_p, c_size_t)),
    ]


class bitnet_ext_lens_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_vocab", c_int32),
        ("n_embd", c_int32),
        ("reserved", c_uint32),
        ("logits", CFUNCTYPE(c_void_p, POINTER(bitnet_trace_host_t), POINTER(c_float))),
    ]


class bitnet_ext_reference_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("linear", CFUNCTYPE(c_void_p, POINTER(bitnet_trace_host_t), POINTER(bitnet_tensor_event_t), c_uint32)),
        ("logits", CFUNCTYPE(c_void_p, POINTER(bitnet_trace_host_t), POINTER(bitnet_tensor_event_t), c_uint32)),
    ]


class bitnet_ext_stop_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("stop", CFUNCTYPE(None, POINTER(bitnet_trace_host_t), c_char_p)),
    ]


class bitnet_trace_sink_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("abi_version", c_uint32),
        ("name", c_char_p),
        ("want", c_uint64),
        ("open", CFUNCTYPE(c_int32, POINTER(c_void_p), POINTER(bitnet_trace_host_t), c_char_p)),
        ("event", CFUNCTYPE(c_int32, c_void_p, POINTER(bitnet_event_t))),
        ("flush", CFUNCTYPE(c_int32, c_void_p)),
        ("close", CFUNCTYPE(None, c_void_p)),
    ]


bitnet_trace_plugin_fn = CFUNCTYPE(c_void_p, POINTER(bitnet_trace_host_t))


class bitnet_trace_stats_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_sinks", c_uint32),
        ("n_events", c_uint64),
        ("n_bytes", c_uint64),
        ("n_failures", c_uint64),
        ("seconds", c_double),
        ("last_failure", c_char * 256),
    ]


class bitnet_trace_params_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("engine", c_char_p),
        ("engine_version", c_char_p),
        ("model_path", c_char_p),
        ("model_hash", c_char_p),
        ("architecture", c_char_p),
        ("hyperparameters", c_char_p),
        ("semantics", c_char_p),
        ("isa", c_char_p),
        ("kv_type", c_char_p),
        ("plugins", c_char_p),
        ("selection", c_char_p),
        ("prompt", c_void_p),
        ("n_prompt_bytes", c_size_t),
        ("tokens", POINTER(c_int32)),
        ("n_tokens", c_size_t),
        ("n_threads", c_int32),
        ("n_batch", c_int32),
    ]


class bitnet_trace_tensor_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("stage", c_int32),
        ("name", c_char_p),
        ("layer", c_int32),
        ("position", c_int32),
        ("dtype", c_int32),
        ("n_rows", c_uint32),
        ("n_dims", c_uint32),
        ("n_inputs", c_uint32),
        ("shape", c_uint64 * 4),
        ("row_stride", c_uint64),
        ("data", c_void_p),
        ("inputs", POINTER(bitnet_tensor_input_t)),
        ("kernel", c_char_p),
        ("ns", c_uint64),
    ]


class bitnet_logits_limits_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("judged", c_uint32),
        ("cosine_min", c_double),
        ("cosine_warn", c_double),
        ("l2_max", c_double),
        ("max_abs_max", c_double),
        ("atol", c_double),
        ("rtol", c_double),
        ("mse_max", c_double),
        ("nmse_max", c_double),
        ("kl_max", c_double),
        ("mean_kl_max", c_double),
        ("top_k_min", c_double),
        ("top1_noise", c_double),
        ("either_cosine_min", c_double),
        ("either_max_abs_max", c_double),
        ("top_k", c_int32),
        ("reserved", c_uint32),
    ]


class bitnet_logits_row_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("measured", c_uint32),
        ("failed", c_uint32),
        ("warned", c_uint32),
        ("n", c_uint64),
        ("n_masked", c_uint64),
        ("n_nonfinite", c_uint64),
        ("n_not_close", c_uint64),
        ("worst_index", c_uint64),
        ("worst_a", c_float),
        ("worst_b", c_float),
        ("cosine", c_double),
        ("l2", c_double),
        ("max_abs", c_double),
        ("mse", c_double),
        ("nmse", c_double),
        ("kl", c_double),
        ("top_k", c_double),
        ("top1_lead", c_double),
        ("rms_difference", c_double),
        ("top1_a", c_int32),
        ("top1_b", c_int32),
    ]


class bitnet_logits_summary_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("verdict", c_int32),
        ("failed", c_uint32),
        ("warned", c_uint32),
        ("unmeasured", c_uint32),
        ("reserved", c_int32),
        ("n_rows", c_uint64),
        ("n_failed", c_uint64),
        ("n_warned", c_uint64),
        ("first_failed", c_uint64),
        ("n_top1_equal", c_uint64),
        ("cosine_least", c_double),
        ("l2_largest", c_double),
        ("max_abs_largest", c_double),
        ("mse_mean", c_double),
        ("nmse_largest", c_double),
        ("kl_mean", c_double),
        ("kl_largest", c_double),
        ("top_k_mean", c_double),
    ]


class bitnet_operation_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("stage", c_int32),
        ("layer", c_int32),
        ("dtype", c_int32),
        ("row_elements", c_uint64),
        ("n_inputs", c_uint32),
        ("every_position", c_uint32),
        ("input_stage", c_int32 * 3),
        ("input_layer", c_int32 * 3),
    ]


class bitnet_rows_t(Structure):
    _fields_ = [
        ("stage", c_int32),
        ("dtype", c_int32),
        ("n_rows", c_uint64),
        ("row_elements", c_uint64),
        ("row_stride", c_uint64),
        ("data", c_void_p),
    ]


class bitnet_replay_params_t(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("stage", c_int32),
        ("layer", c_int32),
        ("n_inputs", c_uint32),
        ("inputs", POINTER(bitnet_rows_t)),
        ("positions", POINTER(c_int32)),
    ]


class bitnet_params_t(Structure):
    _fields_ = [
        ("n_ctx", c_int32),
        ("n_threads", c_int32),
        ("seed", c_int32),
        ("rope_freq", c_float),
    ]


# name: (result, parameters)
FUNCTIONS: Dict[str, Tuple[Any, List[Any]]] = {
    "bitnet_abi_version": (c_uint32, []),
    "bitnet_version": (c_char_p, []),
    "bitnet_status_name": (c_char_p, [c_int32]),
    "bitnet_last_error": (c_char_p, []),
    "bitnet_set_log": (None, [bitnet_log_fn, c_void_p]),
    "bitnet_isa_count": (c_int32, []),
    "bitnet_isa_name": (c_char_p, [c_int32]),
    "bitnet_isa_usable": (c_int32, [c_int32]),
    "bitnet_load": (c_int32, [c_char_p, POINTER(bitnet_load_params_t), POINTER(c_void_p)]),
    "bitnet_load_memory": (c_int32, [c_void_p, c_size_t, c_char_p, POINTER(bitnet_load_params_t), POINTER(c_void_p)]),
    "bitnet_model_free": (None, [c_void_p]),
    "bitnet_model_get_info": (c_int32, [c_void_p, POINTER(bitnet_model_info_t)]),
    "bitnet_model_architecture": (c_char_p, [c_void_p]),
    "bitnet_model_path": (c_char_p, [c_void_p]),
    "bitnet_model_isa": (c_char_p, [c_void_p]),
    "bitnet_model_semantics": (c_char_p, [c_void_p]),
    "bitnet_model_hash": (c_int32, [c_void_p, c_char_p, POINTER(c_size_t)]),
    "bitnet_blake3": (c_int32, [c_void_p, c_size_t, c_char_p, POINTER(c_size_t)]),
    "bitnet_model_warning_count": (c_size_t, [c_void_p]),
    "bitnet_model_warning": (c_char_p, [c_void_p, c_size_t]),
    "bitnet_model_key_count": (c_size_t, [c_void_p]),
    "bitnet_model_key_name": (c_char_p, [c_void_p, c_size_t]),
    "bitnet_model_key_type": (c_char_p, [c_void_p, c_size_t]),
    "bitnet_model_key_length": (c_uint64, [c_void_p, c_size_t]),
    "bitnet_model_key_text": (c_int32, [c_void_p, c_size_t, c_uint64, c_char_p, POINTER(c_size_t)]),
    "bitnet_model_tensor_count": (c_size_t, [c_void_p]),
    "bitnet_model_tensor": (c_int32, [c_void_p, c_size_t, POINTER(bitnet_tensor_info_t)]),
    "bitnet_context_create": (c_int32, [c_void_p, POINTER(bitnet_context_params_t), POINTER(c_void_p)]),
    "bitnet_context_free": (None, [c_void_p]),
    "bitnet_context_reset": (c_int32, [c_void_p]),
    "bitnet_context_truncate": (c_int32, [c_void_p, c_int32]),
    "bitnet_context_fork": (c_int32, [c_void_p, POINTER(c_void_p)]),
    "bitnet_context_position": (c_int32, [c_void_p]),
    "bitnet_context_capacity": (c_int32, [c_void_p]),
    "bitnet_context_memory": (c_uint64, [c_void_p]),
    "bitnet_context_get_head_stats": (c_int32, [c_void_p, POINTER(bitnet_head_stats_t)]),
    "bitnet_context_get_weight_stats": (c_int32, [c_void_p, POINTER(bitnet_weight_stats_t)]),
    "bitnet_context_save": (c_int32, [c_void_p, c_void_p, POINTER(c_size_t)]),
    "bitnet_context_restore": (c_int32, [c_void_p, c_void_p, c_size_t]),
    "bitnet_tokenize_text": (c_int32, [c_void_p, c_char_p, c_size_t, c_uint32, POINTER(c_int32), POINTER(c_size_t)]),
    "bitnet_tokenize_bound": (c_size_t, [c_size_t]),
    "bitnet_detokenize": (c_int32, [c_void_p, POINTER(c_int32), c_size_t, c_uint32, c_char_p, POINTER(c_size_t)]),
    "bitnet_token_text": (c_char_p, [c_void_p, c_int32]),
    "bitnet_token_type": (c_int32, [c_void_p, c_int32]),
    "bitnet_token_score": (c_float, [c_void_p, c_int32]),
    "bitnet_token_special": (c_int32, [c_void_p, c_int32]),
    "bitnet_token_end_ids": (c_int32, [c_void_p, POINTER(c_int32), POINTER(c_size_t)]),
    "bitnet_token_wants_bos": (c_int32, [c_void_p]),
    "bitnet_chat_template": (c_char_p, [c_void_p]),
    "bitnet_eval_tokens": (c_int32, [c_void_p, POINTER(c_int32), c_size_t, POINTER(bitnet_eval_params_t)]),
    "bitnet_get_logits_ith": (POINTER(c_float), [c_void_p, c_int32]),
    "bitnet_copy_logits": (c_int32, [c_void_p, c_int32, POINTER(c_float), POINTER(c_size_t)]),
    "bitnet_logits_count": (c_int32, [c_void_p]),
    "bitnet_get_hidden_ith": (POINTER(c_float), [c_void_p, c_int32]),
    "bitnet_token_logprobs": (c_int32, [c_void_p, POINTER(c_int32), c_size_t, POINTER(c_double)]),
    "bitnet_top_logits": (c_int32, [c_void_p, c_int32, c_int32, POINTER(c_int32), POINTER(c_float)]),
    "bitnet_generate": (c_int32, [c_void_p, POINTER(bitnet_generate_params_t), POINTER(c_int32), POINTER(c_size_t)]),
    "bitnet_stage_name": (c_char_p, [c_int32]),
    "bitnet_trace_set_sink": (c_int32, [c_void_p, POINTER(bitnet_trace_sink_t), c_void_p]),
    "bitnet_trace_load_plugin": (c_int32, [c_void_p, c_char_p, c_char_p]),
    "bitnet_trace_select": (c_int32, [c_void_p, c_char_p]),
    "bitnet_trace_set_prompt": (c_int32, [c_void_p, c_char_p, c_size_t]),
    "bitnet_trace_get_stats": (c_int32, [c_void_p, POINTER(bitnet_trace_stats_t)]),
    "bitnet_trace_end_run": (c_int32, [c_void_p]),
    "bitnet_trace_open": (c_int32, [POINTER(bitnet_trace_params_t), POINTER(c_void_p)]),
    "bitnet_trace_close": (None, [c_void_p]),
    "bitnet_trace_enabled": (c_int32, [c_void_p]),
    "bitnet_trace_wants": (c_int32, [c_void_p, c_int32, c_int32, c_int32]),
    "bitnet_trace_add_sink": (c_int32, [c_void_p, POINTER(bitnet_trace_sink_t), c_void_p]),
    "bitnet_trace_add_plugin": (c_int32, [c_void_p, c_char_p, c_char_p]),
    "bitnet_trace_reselect": (c_int32, [c_void_p, c_char_p]),
    "bitnet_trace_step": (c_int32, [c_void_p, c_int32, POINTER(c_int32), c_size_t]),
    "bitnet_trace_emit": (c_int32, [c_void_p, POINTER(bitnet_trace_tensor_t)]),
    "bitnet_trace_kv": (c_int32, [c_void_p, POINTER(bitnet_kv_state_t)]),
    "bitnet_trace_end": (c_int32, [c_void_p]),
    "bitnet_trace_statistics": (c_int32, [c_void_p, POINTER(bitnet_trace_stats_t)]),
    "bitnet_compare_preset_name": (c_char_p, [c_int32]),
    "bitnet_compare_preset": (c_int32, [c_char_p, POINTER(bitnet_logits_limits_t)]),
    "bitnet_compare_logits": (c_int32, [POINTER(c_float), POINTER(c_float), c_size_t, c_size_t, POINTER(bitnet_logits_limits_t), POINTER(bitnet_logits_row_t), POINTER(bitnet_logits_summary_t)]),
    "bitnet_logprobs": (c_int32, [POINTER(c_float), c_size_t, c_size_t, POINTER(c_int32), POINTER(c_double)]),
    "bitnet_compare_rows": (c_int32, [POINTER(bitnet_logits_row_t), c_size_t, POINTER(bitnet_logits_limits_t), POINTER(bitnet_logits_summary_t)]),
    "bitnet_replay_create": (c_int32, [c_void_p, c_char_p, POINTER(c_void_p)]),
    "bitnet_replay_free": (None, [c_void_p]),
    "bitnet_replay_semantics": (c_char_p, [c_void_p]),
    "bitnet_replay_operation_count": (c_size_t, [c_void_p]),
    "bitnet_replay_operation": (c_int32, [c_void_p, c_size_t, POINTER(bitnet_operation_t)]),
    "bitnet_replay_run": (c_int32, [c_void_p, POINTER(bitnet_replay_params_t), c_void_p, POINTER(c_size_t)]),
    "bitnet_model_new_from_file": (c_void_p, [c_char_p]),
    "bitnet_context_new": (c_void_p, [c_void_p, POINTER(bitnet_params_t)]),
    "bitnet_tokenize": (c_int, [c_void_p, c_char_p, c_int, c_int, POINTER(c_int32), c_int]),
    "bitnet_eval": (c_int, [c_void_p, POINTER(c_int32), c_int, POINTER(c_float), c_int]),
    "bitnet_prefill": (c_int, [c_void_p, POINTER(c_int32), c_int]),
    "bitnet_vocab_size": (c_int, [c_void_p]),
    "bitnet_decode_greedy": (c_int, [c_void_p, c_void_p, c_int, c_int, c_int, POINTER(c_int), c_int]),
}
