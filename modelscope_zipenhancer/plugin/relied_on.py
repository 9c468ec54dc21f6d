"""The names of ModelScope that this folder relies on though no release promises them: one table.

Each row is held by a test of the same name (tests/plugin/test_modelscope_contract.py), which fails when
a release of ModelScope has dropped the name or changed what it means; then look at `used` and `without`.
Held by 1.20.1, 1.23.0, 1.31.0, 1.37.0 and 1.40.2.
"""

from typing import NamedTuple


class ReliedOn(NamedTuple):
    name: str  # module:name
    used: str  # for what, and in which function here
    without: str  # what breaks
    since: str = "1.20"  # the first release that has it so; 1.20 is the oldest that is supported
    until: str | None = None  # the last one; None: the newest that was tried, 1.40.2, has it


RELIED_ON = (
    # How a class is found; plugin/__init__.py.
    ReliedOn(
        "modelscope.models.builder:MODELS",
        "the registry of models, which exists once this module has run (_Finder, _take_over)",
        "Model.from_pretrained gives the built-in network; a warning says so",
    ),
    ReliedOn(
        "modelscope.pipelines.builder:PIPELINES",
        "the registry of pipelines, which exists once this module has run (_Finder, _take_over)",
        "pipeline() gives the built-in; a warning says so",
    ),
    ReliedOn(
        "modelscope.exporters.builder:EXPORTERS",
        "the registry of exporters, which exists once this module has run (_Finder, _take_over)",
        "Exporter.from_model knows no exporter of the task; a warning says so",
    ),
    ReliedOn(
        "modelscope.utils.import_utils:LazyImportModule.AST_INDEX",
        "['index'], one dict for all: (registry's name in capitals, task, type) -> {'module': that of the "
        "class, 'filepath', 'imports'} (_point_index_here)",
        "the built-in is imported, librosa with it, and is what pipeline() gives; a warning says so",
        until="1.20",
    ),
    ReliedOn(
        "modelscope.utils.import_utils:LazyImportModule.get_ast_index",
        "the same from a function, which returns the same dict each time (_point_index_here)",
        "as AST_INDEX",
        since="1.21",
    ),
    ReliedOn(
        "modelscope.utils.import_utils:LazyImportModule.import_module",
        "imports the 'module' of an index entry, whatever package it belongs to (_point_index_here)",
        "pipeline() finds no class: KeyError, '... is not in the pipelines registry'",
    ),
    ReliedOn(
        "modelscope.utils.automodel_utils:can_load_by_ms",
        "with an entry ('MODELS', task, type) Model.from_pretrained uses the registry (_point_index_here)",
        "Model.from_pretrained asks Hugging Face's libraries for the model, and fails",
    ),
    ReliedOn(
        "modelscope.utils.registry:build_from_cfg",
        "imports by (registry.name.upper(), task, type), takes the class from registry.get, sets its "
        "group_key; raises what a constructor raises as type(error)(text), so that errors.py's take one text",
        "pipeline() finds no class, or an error of ours arrives as another",
    ),
    ReliedOn(
        "modelscope.utils.registry:Registry.name",
        "'models' or 'pipelines', in capitals the first part of an index key (_point_index_here)",
        "this package is not active; a warning says so",
    ),
    ReliedOn(
        "modelscope.utils.registry:Registry.modules",
        "the registry's own dict, task -> type -> class; what is taken out is gone (_guard)",
        "this package is not active; a warning says so",
    ),
    ReliedOn(
        "modelscope.utils.registry:Registry._register_module",
        "what register_module calls on the instance, by keywords: group_key, module_name, module_cls, force "
        "(_guard)",
        "importing FRCRN's pipeline raises KeyError, '... is already registered', or replaces our class",
    ),
    ReliedOn(
        "modelscope.utils.registry:Registry.register_module",
        "(task, type, module_cls=, force=True) replaces a class, and sets its group_key (register_classes)",
        "this package is not active; a warning says so",
    ),
    ReliedOn(
        "modelscope.metainfo:Models.speech_zipenhancer_ans_multiloss_16k_base",
        "the type of the model, as names.MODEL_TYPE has it",
        "our classes are never asked for",
    ),
    ReliedOn(
        "modelscope.metainfo:Pipelines.speech_zipenhancer_ans_multiloss_16k_base",
        "the type of the pipeline, as names.MODEL_TYPE has it",
        "our classes are never asked for",
    ),
    ReliedOn(
        "modelscope.utils.constant:Tasks.acoustic_noise_suppression",
        "the task, as names.TASK has it",
        "our classes are never asked for",
    ),
    # Without network; plugin/__init__.py and network/pretrained.py.
    ReliedOn(
        "modelscope.pipelines.builder:is_official_hub_path",
        "pipeline() calls this global of its module with the model first (_fall_back_on_cache)",
        "without network, pipeline(model=id) fails although the model is in the cache",
    ),
    ReliedOn(
        "modelscope.pipelines.builder:read_config",
        "as is_official_hub_path",
        "as is_official_hub_path",
    ),
    ReliedOn(
        "modelscope.pipelines.builder:normalize_model_input",
        "as is_official_hub_path; and (model, revision) returns a model's folder, downloaded if need be "
        "(ZipEnhancerPipeline, since from 1.22 on pipeline() doesn't where a pipeline_name is given)",
        "as is_official_hub_path; and pipeline(model=id, pipeline_name=...) fails",
    ),
    ReliedOn(
        "modelscope.hub.snapshot_download:snapshot_download",
        "with local_files_only=True returns the folder in the cache, or raises, without network (_cached, "
        "network/pretrained.py)",
        "without network, a model id fails although the model is in the cache",
    ),
    # What the classes inherit and override; classes.py.
    ReliedOn(
        "modelscope.models.base:Model.from_pretrained",
        "hands configuration.json's `model` section and its own arguments to the constructor, and sets `cfg` "
        "to the whole file (ZipEnhancerModel)",
        "what a caller overrides is lost; save_pretrained writes a configuration.json that lacks entries",
    ),
    ReliedOn(
        "modelscope.models.base:TorchModel.save_pretrained",
        "calls save_function(model, path) and writes `config` as configuration.json "
        "(ZipEnhancerModel.save_pretrained)",
        "a saved model has weights that the built-in can't load",
    ),
    ReliedOn(
        "modelscope.exporters.base:Exporter.from_model",
        "builds the class of EXPORTERS for the model's task and type, with the model as `model` "
        "(ZipEnhancerExporter)",
        "Exporter.from_model fails, or exports another network",
    ),
    ReliedOn(
        "modelscope.pipelines.base:Pipeline.__init__",
        "(model=, device=, preprocessor=) sets model and device; for a preprocessor that isn't None there is "
        "no search (ZipEnhancerPipeline)",
        "pipeline() fails, or logs three warnings about a missing preprocessor",
    ),
    ReliedOn(
        "modelscope.pipelines.base:Pipeline._sanitize_parameters",
        "gets a call's keyword arguments; returns those of preprocess, forward and postprocess",
        "level, stitch and sample_rate in a call are ignored, unknown arguments are an error",
    ),
    ReliedOn(
        "modelscope.pipelines.base:Pipeline._check_input",
        "is the check of an input before preprocess, and lets everything through here",
        "tensors, paths and open files are refused",
    ),
    ReliedOn(
        "modelscope.pipelines.base:Pipeline._auto_collate",
        "False: what preprocess returns goes to forward as it is",
        "a whole recording is moved to the device, and arrives as a tensor: an error",
    ),
    ReliedOn(
        "modelscope.pipelines.base:Pipeline.prepare_model",
        "places the model, and the first call doesn't do it again",
        "a device without memory for the model: the first call keeps a lock, the second waits ten minutes",
    ),
    ReliedOn(
        "modelscope.pipelines.base:Pipeline.__call__",
        "with batch_size= forward gets a list for each entry, and its lists are taken apart, an item each",
        "batch_size= in a call is an error",
    ),
    ReliedOn(
        "modelscope.utils.constant:DEFAULT_MODEL_REVISION",
        "the revision of a model whose caller names none (ZipEnhancerPipeline)",
        "classes.py can't be imported",
    ),
    ReliedOn(
        "modelscope.outputs:OutputKeys.OUTPUT_PCM",
        "'output_pcm', the one entry that this task's results have (ZipEnhancerPipeline.forward)",
        "callers don't find the sound",
    ),
    # `modelscope server` and the hub's widget; classes.py, service.py.
    ReliedOn(
        "modelscope.utils.input_output:get_pipeline_information_by_pipeline",
        "parses the signatures of preprocess, forward and postprocess in the file of the class; plain names "
        "as annotations and simple defaults only (ZipEnhancerPipeline)",
        "`modelscope server` doesn't start, or doesn't know level, stitch and sample_rate",
    ),
    ReliedOn(
        "modelscope.utils.input_output:call_pipeline_with_json",
        "calls the pipeline with the decoded bytes, and the request's parameters as keyword arguments",
        "`modelscope server` answers requests with an error",
    ),
    ReliedOn(
        "modelscope.utils.input_output:pipeline_output_to_service_base64_output",
        "makes text of the bytes in output_pcm",
        "`modelscope server` answers requests with an error",
    ),
    ReliedOn(
        "modelscope.utils.input_output:service_base64_input_to_pipeline_input",
        "call_pipeline_with_json calls this global of its module, (task, request) -> (input, parameters) "
        "(mark_what_is_sent)",
        "a request may read and write the server's files, and reach its network; a warning says so",
    ),
    ReliedOn(
        "modelscope.server.api_server:get_app",
        "makes the FastAPI application of `modelscope server`, whose state holds pipeline and pipeline_info, "
        "whose route is POST /call (limit_requests)",
        "`modelscope server` reads bodies of any size at any pace; a warning says so",
    ),
)
