"""Detection, instance segmentation, poses and classification with Ultralytics' YOLO networks.

    task: detection                # or segmentation, pose, yolo-classification
    data: {path: shelf/data.yaml}  # see shared.labelled_boxes; for yolo-classification shared.labelled
    model: {architecture: yolo11n, image_size: 640}
    fit: {epochs: 100, batch_size: 16, lr: 0.001}

Ultralytics is licensed under AGPL-3.0, and so may be what is made with it: read its licence before you pass a model on.
It is imported here and nowhere else, when a training begins, with its settings in the run's folder; its analytics,
update checks, downloads, automatic installs and callbacks are off. See `shared.training.tasks.yolo_loop` for what is
put in place of its data scan and its checkpoints.

A network is trained from its YAML description, from scratch, with nothing to download. `model.weights` starts from a
`.pt` file instead: a path, `hf://owner/repo@revision/file` with `weights_sha256`, or a name such as `yolo11n.pt`, which
is looked for in the cache and then fetched from where Ultralytics publishes it. Such a file is a pickle; it is read
with torch's `weights_only`, which builds tensors and known network classes and runs nothing else.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import os
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shared import files, settings, weights
from shared.errors import BadInput, HaechiError
from shared.evaluators.detection import METRICS, DetectionData
from shared.images import EXTENSIONS, read_image
from shared.labelled import scan
from shared.labelled_boxes import BoxData, Labelled, read_boxes
from shared.manifest import TensorSpec, WeightsLicence
from shared.progress import stage
from shared.training import checkpoint, detector_graph
from shared.training.config import TrainConfig, parse
from shared.training.distributed import choose_device
from shared.training.export import Session, export
from shared.training.pseudo_labels import BoxTeachers, unlabelled
from shared.training.task import Exported, OwnLoop
from shared.training.tasks import yolo_export
from shared.training.tasks.yolo_config import Augment, Data, Model, refuse_idle, used_fit
from shared.training.tasks.yolo_loop import BoxPictures, Course, LabelledPictures, TrainerHooks
from shared.training.tracking import Tracker

_KINDS = {
    "detection": ("detect", ""),
    "segmentation": ("segment", "-seg"),
    "pose": ("pose", "-pose"),
    "yolo-classification": ("classify", "-cls"),
}
"""Task → Ultralytics' name of it, and the end of its architectures' names."""
_ASSETS = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"
_LICENCE = "AGPL-3.0"
_STEADY = 8
"""Pictures among which the golden sample is chosen."""
_OFFLINE = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
_SILENT = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg")


class Yolo(OwnLoop):
    """The four tasks. See the top of this file."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config.model_copy(update={"fit": used_fit(config.fit, config.task)})
        self.kind, self._suffix = _KINDS[config.task]
        self.data = parse(Data, config.data, "data")
        self.model = parse(Model, config.model, "model")
        self.augment = parse(Augment, config.augment, "augment")
        self._check()
        self.licences: list[WeightsLicence] = []
        self.boxes: BoxData | None = None
        if self.kind == "classify":
            found = scan(self.data.path, labels=self.data.labels, seed=config.seed)
            self.metric, self.names, self.data_fingerprint = "accuracy", found.labels, found.fingerprint
            self.labelled = {
                "train": [(each.path, each.label) for each in found.train],
                "val": [(each.path, each.label) for each in found.held_out],
            }
        else:
            self.boxes = read_boxes(self.data.path)
            self.metric, self.names = self.model.metric, self.boxes.names
            self.data_fingerprint = self.boxes.fingerprint
            self._check_boxes(self.boxes)

    def _check(self) -> None:
        distill = self.config.distill
        refuse_idle(self.config.task, self.data, self.model, self.augment, distill)
        if self.kind != "classify" and self.model.metric not in METRICS:
            raise BadInput(f"model.metric {self.model.metric!r} is unknown; use {' or '.join(METRICS)}.")
        if distill.logits or distill.features:
            raise BadInput(
                f"{self.config.task} learns from teachers by the boxes they find, not by logits or features; "
                f"leave distill.logits and distill.features out."
            )
        if distill.teachers and self.kind != "detect":
            raise BadInput(f"{self.config.task} cannot be distilled; remove distill.teachers.")

    def _check_boxes(self, boxes: BoxData) -> None:
        train, held_out = boxes.splits.get("train", []), boxes.splits.get("val", [])
        if not train or not held_out:
            missing = "train" if not train else "val"
            raise BadInput(f"{self.data.path} has no pictures in {missing}; a training needs train and val.")
        for each in (*train, *held_out):
            if self.kind == "segment" and each.single.any() and not each.polygons:
                raise BadInput(f"{each.path} has boxes only; segmentation needs an outline of each thing.")
        if self.kind == "pose" and boxes.keypoints is None:
            raise BadInput(f"{self.data.path} has no keypoints; give kpt_shape in data.yaml.")

    # -- training ---------------------------------------------------------------------------------------------------

    def train(self, folder: Path, *, resume: bool) -> tuple[Exported, dict[str, float]]:
        """Train, export and measure the package on the validation split."""
        checkpoint.prepare(folder, self.config, resume=resume)
        train = self._pictures()
        alone: dict[str, float] = {}
        if self.config.distill.teachers and self.config.distill.compare:
            _, alone = self._run(folder / "alone", self._own())
        exported, metrics = self._run(folder, train)
        return exported, metrics | {f"student_alone_{name}": value for name, value in alone.items()}

    def _own(self) -> Sequence[Any]:
        """The training pictures with the labels that people gave them."""
        return self.boxes.splits["train"] if self.boxes is not None else self.labelled["train"]

    def _pictures(self) -> Sequence[Any]:
        distill = self.config.distill
        if not distill.teachers or self.boxes is None:
            return self._own()
        teachers = BoxTeachers(distill.teachers, self.names, self.data.teacher_score)
        more = unlabelled(self.data.unlabelled, EXTENSIONS) if self.data.unlabelled is not None else []
        return teachers.label([*self._own(), *more])

    def _run(self, folder: Path, train: Sequence[Any]) -> tuple[Exported, dict[str, float]]:
        folder.mkdir(parents=True, exist_ok=True)
        found = checkpoint.load(folder)
        state, tensors = found if found is not None else (checkpoint.State(), None)
        with _library(folder) as library:
            start = self._weights(library)
            network = self._network(library)
            steps = -(-len(train) // self.config.fit.batch_size)
            total = steps * self.config.fit.epochs
            tracker = Tracker(folder, self.config, state, steps)
            try:
                with stage(f"epoch 1/{self.config.fit.epochs}", total) as bar:
                    options = self._options(folder)
                    course = Course(
                        self.config.fit,
                        self.config.seed,
                        folder,
                        self._described(),
                        self._datasets(library, options, train),
                        network,
                        start,
                        state,
                        tensors,
                        tracker,
                        bar,
                        time.monotonic() - state.seconds,
                    )
                    trainer = self._trainer(library, course, options)
                    if not state.stopped:
                        trainer.train()
            finally:
                tracker.close(finished=bool(state.stopped))
            trainer.setup_model()
            trainer.set_model_attributes()
            best = trainer.model.cpu().float().eval()
            best.load_state_dict(checkpoint.load_best(folder, state.best_file))
            exported = self._export(library, best)
        return exported, self._measure(exported, state.best_metrics)

    def _trainer(self, library: types.ModuleType, course: Course, options: dict[str, Any]) -> Any:
        """Ultralytics' trainer of the task with our hooks."""
        base = {
            "detect": library.models.yolo.detect.DetectionTrainer,
            "segment": library.models.yolo.segment.SegmentationTrainer,
            "pose": library.models.yolo.pose.PoseTrainer,
            "classify": library.models.yolo.classify.ClassificationTrainer,
        }[self.kind]
        threads = torch.get_num_threads()
        trainer = type("Loop", (TrainerHooks, base), {"course": course})(overrides=options)
        torch.set_num_threads(threads)  # Ultralytics sets its own number
        return trainer

    def _options(self, folder: Path) -> dict[str, Any]:
        """Our settings under Ultralytics' names."""
        fit, model, augment = self.config.fit, self.model, self.augment
        device = choose_device(fit.device)
        sgd = fit.optimizer == "sgd"
        # fmt: off
        return {
            "task": self.kind, "mode": "train", "model": f"{Path(model.architecture).stem}.yaml", "data": "",
            "save_dir": str(folder / "ultralytics"), "exist_ok": True, "plots": False, "verbose": False,
            "epochs": fit.epochs, "batch": fit.batch_size, "nbs": fit.batch_size, "imgsz": model.image_size,
            "device": str(device.index) if device.type == "cuda" else "cpu", "workers": fit.workers,
            "amp": _precision(fit.precision, device), "seed": self.config.seed, "deterministic": True,
            "patience": fit.patience, "freeze": model.freeze or None, "pretrained": bool(model.weights),
            "optimizer": "SGD" if sgd else "AdamW", "momentum": 0.937 if sgd else 0.9, "lr0": fit.lr, "cos_lr": True,
            "weight_decay": fit.weight_decay,
            "warmup_epochs": fit.warmup, "warmup_bias_lr": 0.0, "nms": False, "iou": model.overlap,
            "mosaic": augment.mosaic, "close_mosaic": augment.close_mosaic, "mixup": augment.mixup,
            "fliplr": augment.flip, "flipud": augment.flip_vertical, "degrees": augment.degrees,
            "translate": augment.translate, "scale": augment.scale, "hsv_h": augment.hue,
            "hsv_s": augment.saturation, "hsv_v": augment.brightness, "erasing": augment.erasing,
        }
        # fmt: on

    def _described(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "names": dict(enumerate(self.names)),
            "nc": len(self.names),
            "channels": 3,
            "train": "train",
            "val": "val",
        }
        if self.boxes is not None and self.boxes.keypoints is not None:
            described |= {"kpt_shape": list(self.boxes.keypoints), "flip_idx": self.boxes.mirrored}
        return described

    def _datasets(
        self, library: types.ModuleType, options: dict[str, Any], train: Sequence[Any]
    ) -> Callable[[str], Any]:
        """`train` or `val` → the data set, made when it is first asked for."""
        arguments = library.cfg.get_cfg(overrides=options)
        return functools.cache(lambda mode: self._dataset(library, arguments, mode, train))

    def _dataset(self, library: types.ModuleType, arguments: Any, mode: str, train: Sequence[Any]) -> Any:
        seed, side, training = self.config.seed, self.model.image_size, mode == "train"
        if self.boxes is None:
            transforms = library.data.augment.classify_augmentations(
                size=side,
                scale=(1.0 - arguments.scale, 1.0),
                hflip=arguments.fliplr,
                vflip=arguments.flipud,
                erasing=arguments.erasing,
                hsv_h=arguments.hsv_h,
                hsv_s=arguments.hsv_s,
                hsv_v=arguments.hsv_v,
            )
            return LabelledPictures(
                train if training else self.labelled["val"], seed, side, transforms if training else None
            )
        made = type("Pictures", (BoxPictures, library.data.dataset.YOLODataset), {})
        pictures: Sequence[Labelled] = train if training else self.boxes.splits["val"]
        return made(
            pictures,
            seed,
            imgsz=side,
            augment=training,
            hyp=copy.copy(arguments),
            batch_size=arguments.batch,
            stride=32,
            pad=0.0,
            task=self.kind,
            data=self._described(),
        )

    # -- networks and weights ---------------------------------------------------------------------------------------

    def _network(self, library: types.ModuleType) -> dict[str, Any]:
        """The architecture as Ultralytics' YAML says it, with our factors."""
        name = self.model.architecture
        given = Path(name)
        if given.suffix.lower() not in (".yaml", ".yml"):
            given = Path(f"{name.removesuffix(self._suffix) if self._suffix else name}{self._suffix}.yaml")
        try:
            network: dict[str, Any] = library.nn.tasks.yaml_model_load(given)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"model.architecture {name!r} is neither one of Ultralytics' (yolo11n, yolo26n, yolov8n, …) nor a "
                f"YAML file that can be read."
            ) from error
        if self.model.depth or self.model.width:
            scale = network.get("scale") or next(iter(network.get("scales") or {"n": 0}))
            depth, width, most = (network.get("scales") or {}).get(scale, (1.0, 1.0, 1024))
            network["scale"] = scale
            network["scales"] = {scale: [self.model.depth or depth, self.model.width or width, most]}
        return network

    def _weights(self, library: types.ModuleType) -> nn.Module | None:
        name = self.model.weights
        if not name:
            return None
        path, source = _weights_file(name, self.model.weights_sha256)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if self.model.weights_sha256 and digest != self.model.weights_sha256.lower():
            raise BadInput(f"model.weights {path} is not what weights_sha256 says: its SHA-256 is {digest}.")
        try:
            stored, _ = library.nn.tasks.torch_safe_load(path, safe_only=True)
            module = stored.get("ema") or stored["model"]
        # Its loader raises types of several libraries on files that are damaged or hold something else.
        except Exception as error:
            raise BadInput(f"model.weights {path} is no network of Ultralytics that can be read safely.") from error
        self.licences = [WeightsLicence(name=name, licence=_LICENCE, sha256=digest, source=source)]
        network: nn.Module = module.float()
        return network

    # -- export -----------------------------------------------------------------------------------------------------

    def _export(self, library: types.ModuleType, network: Any) -> Exported:
        side = self.model.image_size
        if self.boxes is None:
            core = yolo_export.Classes(network)
            names = ["logits", "probabilities"]
            exported = export(core, {"pixels": torch.zeros(2, 3, side, side)}, names, {"pixels": {0: "batch"}})
            graph = detector_graph.whole_picture(exported, side)
            outputs = [TensorSpec(name=name, datatype="FP32", shape=[-1, len(self.names)]) for name in names]
            inner = names
        else:
            core, head = self._head(library, network)
            names = ["predictions", *(["prototypes"] if head.prototypes else [])]
            exported = export(core, {"pixels": torch.zeros(2, 3, side, side)}, names, {"pixels": {0: "batch"}})
            graph = detector_graph.compose(exported, head)
            outputs = yolo_export.output_specs(head)
            inner = [detector_graph.NETWORK + name for name in names]
        pictures = [read_image(path) for path in self._held_out()[:_STEADY]]
        parity = yolo_export.parity(core, graph, inner, pictures, side, boxed=self.boxes is not None)
        golden = yolo_export.steadiest(graph, pictures) if self.boxes is not None else pictures[0]
        return Exported(
            model=graph,
            inputs=[TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3])],
            outputs=outputs,
            golden_inputs={"image": golden[None]},
            parity=parity,
            task="image-classification" if self.boxes is None else self.config.task,
            evaluator="image-classification" if self.boxes is None else "detection",
            labels=list(self.names),
            preprocessing={
                "in_graph": "resize" if self.boxes is None else "letterbox",
                "image_size": side,
                "architecture": self.model.architecture,
            },
            description=f"{self.model.architecture} by Ultralytics ({_LICENCE}), {side} px",
            settings=self._settings(),
        )

    def _settings(self) -> dict[str, Any]:
        """The configuration as it was used, for the lineage."""
        used: dict[str, Any] = self.config.model_dump(mode="json", exclude={"name", "version", "seed"})
        del used["fit"]["checkpoint_minutes"]
        if choose_device(self.config.fit.device).type == "cpu":
            used["fit"]["workers"] = 0  # on the CPU Ultralytics reads pictures between the steps
        return used

    def _head(self, library: types.ModuleType, network: Any) -> tuple[nn.Module, detector_graph.Head]:
        """The network with its decoding, and what its numbers are."""
        side, head = self.model.image_size, network.model[-1]
        if not isinstance(head, library.nn.modules.head.Detect):
            raise BadInput(f"model.architecture {self.model.architecture} has a head that cannot be packaged.")
        head.end2end = getattr(head, "one2one_cv2", None) is not None
        network = network.fuse(verbose=False)
        core = yolo_export.Boxes(network, side)
        with torch.inference_mode():
            found = core(torch.zeros(1, 3, side, side))
        predictions = found[0] if isinstance(found, tuple) else found
        return core, detector_graph.Head(
            side=side,
            anchors=predictions.shape[1],
            classes=len(self.names),
            extra=predictions.shape[2] - 4 - len(self.names),
            suppress=not head.end2end,
            overlap=self.model.overlap,
            least_score=self.model.least_score,
            detections=self.model.detections,
            prototypes=found[1].shape[-1] if isinstance(found, tuple) else 0,
            keypoints=tuple(head.kpt_shape) if self.kind == "pose" else None,
        )

    def _held_out(self) -> list[Path]:
        if self.boxes is not None:
            return [each.path for each in self.boxes.splits["val"]]
        return [path for path, _ in self.labelled["val"]]

    def _measure(self, exported: Exported, best: dict[str, float]) -> dict[str, float]:
        """The package's metrics on the validation split; those of masks and poses are the training's own."""
        run = Session(exported.model, torch.get_num_threads()).run
        if self.boxes is None:
            right = [run({"image": read_image(p)[None]})["logits"].argmax() == c for p, c in self.labelled["val"]]
            return {"accuracy": float(np.mean(right))}
        data = DetectionData(self.boxes, range(len(self.names)), "image", self.metric)
        others = {name: value for name, value in best.items() if name.startswith(("mask_", "pose_"))}
        return {**data.evaluate(run).extra, **others}


def _precision(asked: str, device: torch.device) -> bool | str:
    """Ultralytics' `amp`. Its own check of fp16 would download a network to try it on; see `_library`."""
    if device.type == "cpu":
        if asked in ("bf16", "fp16"):
            raise BadInput(f"fit.precision {asked} needs a GPU; use auto or fp32.")
        return False
    if asked == "auto":
        return "bf16" if torch.cuda.is_bf16_supported() else True
    return "bf16" if asked == "bf16" else asked == "fp16"


def _weights_file(name: str, sha256: str) -> tuple[Path, str]:
    """A `.pt` file and where it is from.

    Raises:
        BadInput: the name cannot be one.
        HaechiError: it is nowhere to be found.
    """
    if name.startswith("hf://"):
        found = weights.resolve(name, sha256=sha256 or None)
        return found.path, found.source
    given = Path(name)
    if given.suffix != ".pt":
        raise BadInput(f"model.weights {name!r} must be a .pt file, such as yolo11n.pt.")
    if given.exists():
        return given, str(given)
    if given.name != name:
        raise BadInput(f"model.weights {name} does not exist; check the path.")
    cached = settings.load().cache / "weights" / name
    if not cached.exists():
        files.write_bytes(cached, _fetched(name, cached))
    return cached, _ASSETS + name


def _fetched(name: str, cached: Path) -> bytes:
    import urllib.request

    try:
        with urllib.request.urlopen(_ASSETS + name, timeout=10) as answer:  # noqa: S310 - https, above
            content: bytes = answer.read()
    except OSError as error:
        raise HaechiError(
            f"weights {name} were not found; looked in the cache ({cached}) and at {_ASSETS}{name} "
            f"({getattr(error, 'reason', error)}); copy the file to the cache, or leave model.weights out to train "
            f"from scratch."
        ) from error
    return content


@contextlib.contextmanager
def _library(folder: Path) -> Iterator[types.ModuleType]:
    """Ultralytics for the length of a training: silent, sending nothing, writing only into `folder`; what it changes in
    the process is put back."""
    import cv2
    from PIL import Image

    environment, threads, cv2_threads = dict(os.environ), torch.get_num_threads(), cv2.getNumThreads()
    save: Callable[..., Any] = torch.save
    open_picture: Callable[..., Any] = Image.open
    os.environ.update(_OFFLINE, YOLO_CONFIG_DIR=str(folder / "ultralytics"))
    try:
        with np.printoptions():
            import ultralytics
            import ultralytics.data.dataset
            import ultralytics.engine.trainer
            import ultralytics.models.yolo
            from ultralytics.utils import LOGGER, SETTINGS
            from ultralytics.utils.events import events
        torch.save = save
        Image.open = open_picture  # theirs tries to install a library when a file is no picture
        events.enabled = False
        dict.update(SETTINGS, dict.fromkeys(_SILENT, False))  # in memory; its own `update` would write a file
        ultralytics.engine.trainer.check_amp = lambda _model: True  # the real one downloads a network
        level = LOGGER.level
        LOGGER.setLevel("CRITICAL")
        try:
            yield ultralytics
        finally:
            LOGGER.setLevel(level)
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
