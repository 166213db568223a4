// The public structs' layouts, frozen: a change here breaks programs that are already compiled. 64-bit platforms.
#include <cstddef>

#include "bitnet_c.h"
#include "bitnet_cpp.h"

#define BITNET_AT(type, field, offset) static_assert(offsetof(type, field) == offset)
#define BITNET_SIZE(type, size) static_assert(sizeof(type) == size && sizeof(void *) == 8)

BITNET_AT(bitnet_load_params_t, struct_size, 0);
BITNET_AT(bitnet_load_params_t, flags, 4);
BITNET_AT(bitnet_load_params_t, isa, 8);
BITNET_AT(bitnet_load_params_t, semantics, 16);
BITNET_AT(bitnet_load_params_t, progress, 24);
BITNET_AT(bitnet_load_params_t, progress_user, 32);
BITNET_SIZE(bitnet_load_params_t, 40);

BITNET_AT(bitnet_model_info_t, struct_size, 0);
BITNET_AT(bitnet_model_info_t, n_vocab, 4);
BITNET_AT(bitnet_model_info_t, n_ctx_train, 8);
BITNET_AT(bitnet_model_info_t, n_embd, 12);
BITNET_AT(bitnet_model_info_t, n_layer, 16);
BITNET_AT(bitnet_model_info_t, n_ff, 20);
BITNET_AT(bitnet_model_info_t, n_head, 24);
BITNET_AT(bitnet_model_info_t, n_head_kv, 28);
BITNET_AT(bitnet_model_info_t, head_dim, 32);
BITNET_AT(bitnet_model_info_t, n_rot, 36);
BITNET_AT(bitnet_model_info_t, rms_eps, 40);
BITNET_AT(bitnet_model_info_t, head_tied, 44);
BITNET_AT(bitnet_model_info_t, rope_theta, 48);
BITNET_AT(bitnet_model_info_t, n_params, 56);
BITNET_AT(bitnet_model_info_t, n_bytes, 64);
BITNET_SIZE(bitnet_model_info_t, 72);

BITNET_AT(bitnet_tensor_info_t, struct_size, 0);
BITNET_AT(bitnet_tensor_info_t, n_dims, 4);
BITNET_AT(bitnet_tensor_info_t, dims, 8);
BITNET_AT(bitnet_tensor_info_t, name, 40);
BITNET_AT(bitnet_tensor_info_t, type_name, 48);
BITNET_AT(bitnet_tensor_info_t, file_offset, 56);
BITNET_AT(bitnet_tensor_info_t, n_bytes, 64);
BITNET_SIZE(bitnet_tensor_info_t, 72);

BITNET_AT(bitnet_context_params_t, struct_size, 0);
BITNET_AT(bitnet_context_params_t, n_ctx, 4);
BITNET_AT(bitnet_context_params_t, n_threads, 8);
BITNET_AT(bitnet_context_params_t, n_batch, 12);
BITNET_AT(bitnet_context_params_t, kv_type, 16);
BITNET_AT(bitnet_context_params_t, device_id, 20);
BITNET_AT(bitnet_context_params_t, head, 24);
BITNET_AT(bitnet_context_params_t, reserved, 28);
BITNET_SIZE(bitnet_context_params_t, 32);

BITNET_AT(bitnet_head_stats_t, struct_size, 0);
BITNET_AT(bitnet_head_stats_t, reserved, 4);
BITNET_AT(bitnet_head_stats_t, n_certified, 8);
BITNET_AT(bitnet_head_stats_t, n_full, 16);
BITNET_AT(bitnet_head_stats_t, n_rows_computed, 24);
BITNET_AT(bitnet_head_stats_t, n_bytes, 32);
BITNET_AT(bitnet_head_stats_t, build_ns, 40);
BITNET_SIZE(bitnet_head_stats_t, 48);

BITNET_AT(bitnet_eval_params_t, struct_size, 0);
BITNET_AT(bitnet_eval_params_t, logits, 4);
BITNET_AT(bitnet_eval_params_t, embeddings, 8);
BITNET_AT(bitnet_eval_params_t, cancel, 16);
BITNET_AT(bitnet_eval_params_t, cancel_user, 24);
BITNET_SIZE(bitnet_eval_params_t, 32);

BITNET_AT(bitnet_generate_params_t, struct_size, 0);
BITNET_AT(bitnet_generate_params_t, max_tokens, 4);
BITNET_AT(bitnet_generate_params_t, temperature, 8);
BITNET_AT(bitnet_generate_params_t, top_k, 12);
BITNET_AT(bitnet_generate_params_t, top_p, 16);
BITNET_AT(bitnet_generate_params_t, min_p, 20);
BITNET_AT(bitnet_generate_params_t, repeat_penalty, 24);
BITNET_AT(bitnet_generate_params_t, repeat_last_n, 28);
BITNET_AT(bitnet_generate_params_t, seed, 32);
BITNET_AT(bitnet_generate_params_t, stop_tokens, 40);
BITNET_AT(bitnet_generate_params_t, n_stop_tokens, 48);
BITNET_AT(bitnet_generate_params_t, stop_strings, 56);
BITNET_AT(bitnet_generate_params_t, n_stop_strings, 64);
BITNET_AT(bitnet_generate_params_t, flags, 72);
BITNET_AT(bitnet_generate_params_t, reserved, 76);
BITNET_AT(bitnet_generate_params_t, on_token, 80);
BITNET_AT(bitnet_generate_params_t, on_token_user, 88);
BITNET_SIZE(bitnet_generate_params_t, 96);

BITNET_AT(bitnet_event_t, size, 0);
BITNET_AT(bitnet_event_t, type, 4);
BITNET_AT(bitnet_event_t, flags, 8);
BITNET_AT(bitnet_event_t, layer, 12);
BITNET_AT(bitnet_event_t, position, 16);
BITNET_AT(bitnet_event_t, run, 20);
BITNET_AT(bitnet_event_t, seq, 24);
BITNET_AT(bitnet_event_t, time_ns, 32);
BITNET_SIZE(bitnet_event_t, 40);

BITNET_AT(bitnet_run_begin_event_t, header, 0);
BITNET_AT(bitnet_run_begin_event_t, engine, 40);
BITNET_AT(bitnet_run_begin_event_t, engine_version, 48);
BITNET_AT(bitnet_run_begin_event_t, model_path, 56);
BITNET_AT(bitnet_run_begin_event_t, model_hash, 64);
BITNET_AT(bitnet_run_begin_event_t, architecture, 72);
BITNET_AT(bitnet_run_begin_event_t, hyperparameters, 80);
BITNET_AT(bitnet_run_begin_event_t, semantics, 88);
BITNET_AT(bitnet_run_begin_event_t, isa, 96);
BITNET_AT(bitnet_run_begin_event_t, kv_type, 104);
BITNET_AT(bitnet_run_begin_event_t, selection, 112);
BITNET_AT(bitnet_run_begin_event_t, prompt, 120);
BITNET_AT(bitnet_run_begin_event_t, n_prompt_bytes, 128);
BITNET_AT(bitnet_run_begin_event_t, n_threads, 136);
BITNET_AT(bitnet_run_begin_event_t, n_batch, 140);
BITNET_AT(bitnet_run_begin_event_t, tokens, 144);
BITNET_AT(bitnet_run_begin_event_t, n_tokens, 152);
BITNET_SIZE(bitnet_run_begin_event_t, 160);

BITNET_AT(bitnet_step_event_t, header, 0);
BITNET_AT(bitnet_step_event_t, tokens, 40);
BITNET_AT(bitnet_step_event_t, n_tokens, 48);
BITNET_AT(bitnet_step_event_t, status, 56);
BITNET_AT(bitnet_step_event_t, reserved, 60);
BITNET_SIZE(bitnet_step_event_t, 64);

BITNET_AT(bitnet_kv_state_t, struct_size, 0);
BITNET_AT(bitnet_kv_state_t, n_valid, 4);
BITNET_AT(bitnet_kv_state_t, n_max, 8);
BITNET_AT(bitnet_kv_state_t, oldest, 12);
BITNET_AT(bitnet_kv_state_t, n_bytes, 16);
BITNET_AT(bitnet_kv_state_t, n_bytes_used, 24);
BITNET_AT(bitnet_kv_state_t, n_hits, 32);
BITNET_AT(bitnet_kv_state_t, n_misses, 40);
BITNET_AT(bitnet_kv_state_t, n_evicted, 48);
BITNET_SIZE(bitnet_kv_state_t, 56);

BITNET_AT(bitnet_kv_event_t, header, 0);
BITNET_AT(bitnet_kv_event_t, kv, 40);
BITNET_SIZE(bitnet_kv_event_t, 96);

BITNET_AT(bitnet_tensor_input_t, name, 0);
BITNET_AT(bitnet_tensor_input_t, stage, 8);
BITNET_AT(bitnet_tensor_input_t, dtype, 12);
BITNET_AT(bitnet_tensor_input_t, n_dims, 16);
BITNET_AT(bitnet_tensor_input_t, reserved, 20);
BITNET_AT(bitnet_tensor_input_t, shape, 24);
BITNET_AT(bitnet_tensor_input_t, row_elements, 56);
BITNET_AT(bitnet_tensor_input_t, row_stride, 64);
BITNET_AT(bitnet_tensor_input_t, data, 72);
BITNET_SIZE(bitnet_tensor_input_t, 80);

BITNET_AT(bitnet_tensor_event_t, header, 0);
BITNET_AT(bitnet_tensor_event_t, stage, 40);
BITNET_AT(bitnet_tensor_event_t, dtype, 44);
BITNET_AT(bitnet_tensor_event_t, stage_name, 48);
BITNET_AT(bitnet_tensor_event_t, kernel, 56);
BITNET_AT(bitnet_tensor_event_t, n_rows, 64);
BITNET_AT(bitnet_tensor_event_t, first_row, 68);
BITNET_AT(bitnet_tensor_event_t, n_dims, 72);
BITNET_AT(bitnet_tensor_event_t, n_inputs, 76);
BITNET_AT(bitnet_tensor_event_t, shape, 80);
BITNET_AT(bitnet_tensor_event_t, row_elements, 112);
BITNET_AT(bitnet_tensor_event_t, row_stride, 120);
BITNET_AT(bitnet_tensor_event_t, data, 128);
BITNET_AT(bitnet_tensor_event_t, ns, 136);
BITNET_AT(bitnet_tensor_event_t, inputs, 144);
BITNET_SIZE(bitnet_tensor_event_t, 152);

BITNET_AT(bitnet_run_end_event_t, header, 0);
BITNET_AT(bitnet_run_end_event_t, n_tensors, 40);
BITNET_AT(bitnet_run_end_event_t, n_rows, 48);
BITNET_AT(bitnet_run_end_event_t, n_tokens, 56);
BITNET_SIZE(bitnet_run_end_event_t, 64);

BITNET_AT(bitnet_trace_host_t, struct_size, 0);
BITNET_AT(bitnet_trace_host_t, abi_version, 4);
BITNET_AT(bitnet_trace_host_t, self, 8);
BITNET_AT(bitnet_trace_host_t, log, 16);
BITNET_AT(bitnet_trace_host_t, get_extension, 24);
BITNET_SIZE(bitnet_trace_host_t, 32);

BITNET_AT(bitnet_ext_hash_t, struct_size, 0);
BITNET_AT(bitnet_ext_hash_t, reserved, 4);
BITNET_AT(bitnet_ext_hash_t, blake3, 8);
BITNET_AT(bitnet_ext_hash_t, multiset, 16);
BITNET_SIZE(bitnet_ext_hash_t, 24);

BITNET_AT(bitnet_stats_t, struct_size, 0);
BITNET_AT(bitnet_stats_t, n_top, 4);
BITNET_AT(bitnet_stats_t, n, 8);
BITNET_AT(bitnet_stats_t, n_nan, 16);
BITNET_AT(bitnet_stats_t, n_inf, 24);
BITNET_AT(bitnet_stats_t, n_zero, 32);
BITNET_AT(bitnet_stats_t, mean, 40);
BITNET_AT(bitnet_stats_t, std, 48);
BITNET_AT(bitnet_stats_t, rms, 56);
BITNET_AT(bitnet_stats_t, l2, 64);
BITNET_AT(bitnet_stats_t, min, 72);
BITNET_AT(bitnet_stats_t, max, 76);
BITNET_AT(bitnet_stats_t, absmax, 80);
BITNET_AT(bitnet_stats_t, min_index, 84);
BITNET_AT(bitnet_stats_t, max_index, 88);
BITNET_AT(bitnet_stats_t, top_index, 92);
BITNET_AT(bitnet_stats_t, top_value, 124);
BITNET_AT(bitnet_stats_t, nonfinite_index, 156);
BITNET_SIZE(bitnet_stats_t, 160);

BITNET_AT(bitnet_ext_stats_t, struct_size, 0);
BITNET_AT(bitnet_ext_stats_t, reserved, 4);
BITNET_AT(bitnet_ext_stats_t, stats, 8);
BITNET_SIZE(bitnet_ext_stats_t, 16);

BITNET_AT(bitnet_ext_sketch_t, struct_size, 0);
BITNET_AT(bitnet_ext_sketch_t, reserved, 4);
BITNET_AT(bitnet_ext_sketch_t, sketch, 8);
BITNET_SIZE(bitnet_ext_sketch_t, 16);

BITNET_AT(bitnet_ext_override_t, struct_size, 0);
BITNET_AT(bitnet_ext_override_t, reserved, 4);
BITNET_AT(bitnet_ext_override_t, replace, 8);
BITNET_SIZE(bitnet_ext_override_t, 16);

BITNET_AT(bitnet_ext_lens_t, struct_size, 0);
BITNET_AT(bitnet_ext_lens_t, n_vocab, 4);
BITNET_AT(bitnet_ext_lens_t, n_embd, 8);
BITNET_AT(bitnet_ext_lens_t, reserved, 12);
BITNET_AT(bitnet_ext_lens_t, logits, 16);
BITNET_SIZE(bitnet_ext_lens_t, 24);

BITNET_AT(bitnet_ext_reference_t, struct_size, 0);
BITNET_AT(bitnet_ext_reference_t, reserved, 4);
BITNET_AT(bitnet_ext_reference_t, linear, 8);
BITNET_AT(bitnet_ext_reference_t, logits, 16);
BITNET_SIZE(bitnet_ext_reference_t, 24);

BITNET_AT(bitnet_ext_stop_t, struct_size, 0);
BITNET_AT(bitnet_ext_stop_t, reserved, 4);
BITNET_AT(bitnet_ext_stop_t, stop, 8);
BITNET_SIZE(bitnet_ext_stop_t, 16);

BITNET_AT(bitnet_trace_sink_t, struct_size, 0);
BITNET_AT(bitnet_trace_sink_t, abi_version, 4);
BITNET_AT(bitnet_trace_sink_t, name, 8);
BITNET_AT(bitnet_trace_sink_t, want, 16);
BITNET_AT(bitnet_trace_sink_t, open, 24);
BITNET_AT(bitnet_trace_sink_t, event, 32);
BITNET_AT(bitnet_trace_sink_t, flush, 40);
BITNET_AT(bitnet_trace_sink_t, close, 48);
BITNET_SIZE(bitnet_trace_sink_t, 56);

BITNET_AT(bitnet_trace_stats_t, struct_size, 0);
BITNET_AT(bitnet_trace_stats_t, n_sinks, 4);
BITNET_AT(bitnet_trace_stats_t, n_events, 8);
BITNET_AT(bitnet_trace_stats_t, n_bytes, 16);
BITNET_AT(bitnet_trace_stats_t, n_failures, 24);
BITNET_AT(bitnet_trace_stats_t, seconds, 32);
BITNET_AT(bitnet_trace_stats_t, last_failure, 40);
BITNET_SIZE(bitnet_trace_stats_t, 296);

BITNET_AT(bitnet_trace_params_t, struct_size, 0);
BITNET_AT(bitnet_trace_params_t, flags, 4);
BITNET_AT(bitnet_trace_params_t, engine, 8);
BITNET_AT(bitnet_trace_params_t, engine_version, 16);
BITNET_AT(bitnet_trace_params_t, model_path, 24);
BITNET_AT(bitnet_trace_params_t, model_hash, 32);
BITNET_AT(bitnet_trace_params_t, architecture, 40);
BITNET_AT(bitnet_trace_params_t, hyperparameters, 48);
BITNET_AT(bitnet_trace_params_t, semantics, 56);
BITNET_AT(bitnet_trace_params_t, isa, 64);
BITNET_AT(bitnet_trace_params_t, kv_type, 72);
BITNET_AT(bitnet_trace_params_t, plugins, 80);
BITNET_AT(bitnet_trace_params_t, selection, 88);
BITNET_AT(bitnet_trace_params_t, prompt, 96);
BITNET_AT(bitnet_trace_params_t, n_prompt_bytes, 104);
BITNET_AT(bitnet_trace_params_t, tokens, 112);
BITNET_AT(bitnet_trace_params_t, n_tokens, 120);
BITNET_AT(bitnet_trace_params_t, n_threads, 128);
BITNET_AT(bitnet_trace_params_t, n_batch, 132);
BITNET_SIZE(bitnet_trace_params_t, 136);

BITNET_AT(bitnet_trace_tensor_t, struct_size, 0);
BITNET_AT(bitnet_trace_tensor_t, stage, 4);
BITNET_AT(bitnet_trace_tensor_t, name, 8);
BITNET_AT(bitnet_trace_tensor_t, layer, 16);
BITNET_AT(bitnet_trace_tensor_t, position, 20);
BITNET_AT(bitnet_trace_tensor_t, dtype, 24);
BITNET_AT(bitnet_trace_tensor_t, n_rows, 28);
BITNET_AT(bitnet_trace_tensor_t, n_dims, 32);
BITNET_AT(bitnet_trace_tensor_t, n_inputs, 36);
BITNET_AT(bitnet_trace_tensor_t, shape, 40);
BITNET_AT(bitnet_trace_tensor_t, row_stride, 72);
BITNET_AT(bitnet_trace_tensor_t, data, 80);
BITNET_AT(bitnet_trace_tensor_t, inputs, 88);
BITNET_AT(bitnet_trace_tensor_t, kernel, 96);
BITNET_AT(bitnet_trace_tensor_t, ns, 104);
BITNET_SIZE(bitnet_trace_tensor_t, 112);

BITNET_AT(bitnet_logits_limits_t, struct_size, 0);
BITNET_AT(bitnet_logits_limits_t, judged, 4);
BITNET_AT(bitnet_logits_limits_t, cosine_min, 8);
BITNET_AT(bitnet_logits_limits_t, cosine_warn, 16);
BITNET_AT(bitnet_logits_limits_t, l2_max, 24);
BITNET_AT(bitnet_logits_limits_t, max_abs_max, 32);
BITNET_AT(bitnet_logits_limits_t, atol, 40);
BITNET_AT(bitnet_logits_limits_t, rtol, 48);
BITNET_AT(bitnet_logits_limits_t, mse_max, 56);
BITNET_AT(bitnet_logits_limits_t, nmse_max, 64);
BITNET_AT(bitnet_logits_limits_t, kl_max, 72);
BITNET_AT(bitnet_logits_limits_t, mean_kl_max, 80);
BITNET_AT(bitnet_logits_limits_t, top_k_min, 88);
BITNET_AT(bitnet_logits_limits_t, top1_noise, 96);
BITNET_AT(bitnet_logits_limits_t, either_cosine_min, 104);
BITNET_AT(bitnet_logits_limits_t, either_max_abs_max, 112);
BITNET_AT(bitnet_logits_limits_t, top_k, 120);
BITNET_AT(bitnet_logits_limits_t, reserved, 124);
BITNET_SIZE(bitnet_logits_limits_t, 128);

BITNET_AT(bitnet_logits_row_t, struct_size, 0);
BITNET_AT(bitnet_logits_row_t, measured, 4);
BITNET_AT(bitnet_logits_row_t, failed, 8);
BITNET_AT(bitnet_logits_row_t, warned, 12);
BITNET_AT(bitnet_logits_row_t, n, 16);
BITNET_AT(bitnet_logits_row_t, n_masked, 24);
BITNET_AT(bitnet_logits_row_t, n_nonfinite, 32);
BITNET_AT(bitnet_logits_row_t, n_not_close, 40);
BITNET_AT(bitnet_logits_row_t, worst_index, 48);
BITNET_AT(bitnet_logits_row_t, worst_a, 56);
BITNET_AT(bitnet_logits_row_t, worst_b, 60);
BITNET_AT(bitnet_logits_row_t, cosine, 64);
BITNET_AT(bitnet_logits_row_t, l2, 72);
BITNET_AT(bitnet_logits_row_t, max_abs, 80);
BITNET_AT(bitnet_logits_row_t, mse, 88);
BITNET_AT(bitnet_logits_row_t, nmse, 96);
BITNET_AT(bitnet_logits_row_t, kl, 104);
BITNET_AT(bitnet_logits_row_t, top_k, 112);
BITNET_AT(bitnet_logits_row_t, top1_lead, 120);
BITNET_AT(bitnet_logits_row_t, rms_difference, 128);
BITNET_AT(bitnet_logits_row_t, top1_a, 136);
BITNET_AT(bitnet_logits_row_t, top1_b, 140);
BITNET_SIZE(bitnet_logits_row_t, 144);

BITNET_AT(bitnet_logits_summary_t, struct_size, 0);
BITNET_AT(bitnet_logits_summary_t, verdict, 4);
BITNET_AT(bitnet_logits_summary_t, failed, 8);
BITNET_AT(bitnet_logits_summary_t, warned, 12);
BITNET_AT(bitnet_logits_summary_t, unmeasured, 16);
BITNET_AT(bitnet_logits_summary_t, reserved, 20);
BITNET_AT(bitnet_logits_summary_t, n_rows, 24);
BITNET_AT(bitnet_logits_summary_t, n_failed, 32);
BITNET_AT(bitnet_logits_summary_t, n_warned, 40);
BITNET_AT(bitnet_logits_summary_t, first_failed, 48);
BITNET_AT(bitnet_logits_summary_t, n_top1_equal, 56);
BITNET_AT(bitnet_logits_summary_t, cosine_least, 64);
BITNET_AT(bitnet_logits_summary_t, l2_largest, 72);
BITNET_AT(bitnet_logits_summary_t, max_abs_largest, 80);
BITNET_AT(bitnet_logits_summary_t, mse_mean, 88);
BITNET_AT(bitnet_logits_summary_t, nmse_largest, 96);
BITNET_AT(bitnet_logits_summary_t, kl_mean, 104);
BITNET_AT(bitnet_logits_summary_t, kl_largest, 112);
BITNET_AT(bitnet_logits_summary_t, top_k_mean, 120);
BITNET_SIZE(bitnet_logits_summary_t, 128);

BITNET_AT(bitnet_operation_t, struct_size, 0);
BITNET_AT(bitnet_operation_t, stage, 4);
BITNET_AT(bitnet_operation_t, layer, 8);
BITNET_AT(bitnet_operation_t, dtype, 12);
BITNET_AT(bitnet_operation_t, row_elements, 16);
BITNET_AT(bitnet_operation_t, n_inputs, 24);
BITNET_AT(bitnet_operation_t, every_position, 28);
BITNET_AT(bitnet_operation_t, input_stage, 32);
BITNET_AT(bitnet_operation_t, input_layer, 44);
BITNET_SIZE(bitnet_operation_t, 56);

BITNET_AT(bitnet_rows_t, stage, 0);
BITNET_AT(bitnet_rows_t, dtype, 4);
BITNET_AT(bitnet_rows_t, n_rows, 8);
BITNET_AT(bitnet_rows_t, row_elements, 16);
BITNET_AT(bitnet_rows_t, row_stride, 24);
BITNET_AT(bitnet_rows_t, data, 32);
BITNET_SIZE(bitnet_rows_t, 40);

BITNET_AT(bitnet_replay_params_t, struct_size, 0);
BITNET_AT(bitnet_replay_params_t, stage, 4);
BITNET_AT(bitnet_replay_params_t, layer, 8);
BITNET_AT(bitnet_replay_params_t, n_inputs, 12);
BITNET_AT(bitnet_replay_params_t, inputs, 16);
BITNET_AT(bitnet_replay_params_t, positions, 24);
BITNET_SIZE(bitnet_replay_params_t, 32);

BITNET_AT(bitnet_params_t, n_ctx, 0);
BITNET_AT(bitnet_params_t, n_threads, 4);
BITNET_AT(bitnet_params_t, seed, 8);
BITNET_AT(bitnet_params_t, rope_freq, 12);
BITNET_SIZE(bitnet_params_t, 16);

BITNET_AT(bitnet_capabilities_t, has_avx2, 0);
BITNET_AT(bitnet_capabilities_t, has_avx512, 4);
BITNET_AT(bitnet_capabilities_t, has_neon, 8);
BITNET_AT(bitnet_capabilities_t, has_cuda, 12);
BITNET_AT(bitnet_capabilities_t, has_metal, 16);
BITNET_AT(bitnet_capabilities_t, has_hip, 20);
BITNET_SIZE(bitnet_capabilities_t, 24);
