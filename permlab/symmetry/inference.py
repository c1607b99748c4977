"""Find the permutation symmetry of any module torch.fx can trace: `spec = infer(model, (images,))`.

The graph is run once on an example, and every operation says which axes move together (`permlab.symmetry.rules`). What
no rule covers stays where it is, with the reason in `spec.pinned`; the result is verified before it is returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from permlab.errors import UserError, first_line
from permlab.symmetry import rules
from permlab.symmetry.algebra import fresh, pin
from permlab.symmetry.collect import collect
from permlab.symmetry.rules import Axes
from permlab.symmetry.spec import Spec
from permlab.symmetry.verification import verify


def infer(model: nn.Module, inputs: Tensor | Sequence[Any], *, check: bool = True) -> Spec:
    """Spec of a traceable module, from one example input.

    Args:
        model: any module; data-dependent control flow cannot be traced.
        inputs: an example input, or several positional ones (small ones will do; at least two samples).
        check: verify every group in float64 before returning.

    Raises:
        UserError: torch.fx cannot trace the module, or the result does not pass `verify`.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    try:
        graph = fx.symbolic_trace(model)
    except Exception as error:  # torch.fx raises many kinds; all mean that the module cannot be traced
        raise UserError(
            f"torch.fx cannot trace {type(model).__name__} ({first_line(error, 160)}): write a Spec by hand "
            "with permlab.symmetry.Spec, or use declare_huggingface for a transformers model"
        ) from None
    training = model.training
    # One real run gives every shape, so that reshapes need no symbolic arithmetic.
    labeller = _Labeller(graph.eval(), model)
    with torch.no_grad():
        labeller.run(*inputs)
    model.train(training)
    # Groups are named after their first tensor: state-dict order makes the names independent of the trace.
    order = [name for name in model.state_dict() if name in labeller.parameters]
    spec = collect({name: labeller.parameters[name] for name in order}, f"inferred from {type(model).__name__}")
    spec.tied = labeller.tied
    # Rules are trusted as little as hand-written tables: what is returned has left the function unchanged.
    if check:
        verify(spec, model, inputs)
    return spec


class _Labeller(fx.Interpreter):
    """Runs the graph and keeps, next to every value, the axes of its tensors."""

    def __init__(self, graph: fx.GraphModule, model: nn.Module) -> None:
        super().__init__(graph)
        self.labels: dict[fx.Node, Any] = {}
        self.parameters: dict[str, Axes] = {}
        self.tied: dict[str, str] = {}
        self._tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
        self._names: dict[int, str] = {}
        for name, tensor in self._tensors.items():
            # Sharing one object is what a tie is; equal values are not.
            first = self._names.setdefault(id(tensor), name)
            if first != name:
                self.tied[name] = first

    def parameter(self, name: str) -> Axes:
        """Axes of a parameter or buffer, made at its first use; KeyError when the module has none of that name."""
        tensor = self._tensors[name]
        name = self._names[id(tensor)]
        if name not in self.parameters:
            self.parameters[name] = [fresh(size) for size in tensor.shape]
        return self.parameters[name]

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and label its result."""
        result = super().run_node(n)
        if n.op == "placeholder":
            # Inputs and outputs are the function itself: only what lies between them is free.
            self.labels[n] = self._pinned(result, "an input of the model keeps its order")
        elif n.op == "get_attr":
            self.labels[n] = self.parameter(str(n.target)) if isinstance(result, Tensor) else None
        elif n.op == "output":
            for axes in _leaves(fx.node.map_arg(n.args[0], lambda node: self.labels.get(node))):
                for axis in axes:
                    pin(axis, "an output of the model keeps its order")
        elif _has_tensor(result):
            self.labels[n] = self._rule(n, result)
        return result

    def _pinned(self, result: Any, reason: str) -> Any:
        if isinstance(result, Tensor):
            return [fresh(size, reason) for size in result.shape]
        return [self._pinned(item, reason) for item in result] if isinstance(result, list | tuple) else None

    def _rule(self, node: fx.Node, result: Any) -> Any:
        values, options = self.fetch_args_kwargs_from_env(node)
        axes = [self.labels.get(arg) if isinstance(arg, fx.Node) else None for arg in node.args]
        shape = tuple(result.shape) if isinstance(result, Tensor) else ()
        found = None
        if any(isinstance(arg, fx.Node) and self.labels.get(arg) for arg in node.kwargs.values()):
            return self._unknown(node, result)  # rules read tensors by position only
        if node.op == "call_module":
            found = self._module(str(node.target), axes, shape)
        elif (axes and axes[0] is not None) or node.target is torch.cat:
            found = self._operation(node, axes, values, options, result, shape)
        elif node.target in rules.BINARY:
            found = rules.broadcast([each for each in axes if each], shape)
        return found if found is not None else self._unknown(node, result)

    def _unknown(self, node: fx.Node, result: Any) -> Any:
        """No rule: everything the operation touches stays where it is."""
        target = node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if node.op == "call_module":
            name = type(self.module.get_submodule(str(target))).__name__
        reason = f"{name} has no rule, so what passes through it keeps its order"
        if target is functional.pad:
            reason = "a padded shortcut ties channels of different layers by their position (use a projection instead)"
        # An unknown operation may depend on any order: too small a group is safe, too large a one is wrong.
        for arg in node.all_input_nodes:
            for axes in _leaves(self.labels.get(arg)):
                for axis in axes:
                    pin(axis, reason)
        return self._pinned(result, reason)

    def _module(self, target: str, axes: list[Any], shape: tuple[int, ...]) -> Any:
        """Axes of the module's output, or a list of them where it returns several; None without a rule."""
        module, x = self.module.get_submodule(target), axes[0]

        def params(name: str) -> Axes:
            return self.parameter(f"{target}.{name}")

        if isinstance(module, rules.ELEMENTWISE_MODULES):
            return x
        if isinstance(module, nn.Linear):
            return rules.linear(x, params)
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return rules.convolution(module, x, shape, params)
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.RMSNorm | nn.GroupNorm):
            return rules.normalisation(module, x, params)
        if isinstance(module, rules.POOLS):
            return rules.pooled(x, shape, len(shape) - 2)
        if isinstance(module, nn.Flatten):
            return rules.reshape(x, shape)
        if isinstance(module, nn.MultiheadAttention):
            out = rules.multihead(module, [each for each in axes if each], params)
            return None if out is None else [out, None]
        if isinstance(module, nn.Embedding):
            weight = params("weight")
            # Rows are picked by token number, which a permutation of the rows would have to renumber.
            pin(weight[0], "the vocabulary keeps its order")
            return [*x, weight[1]]
        return None

    def _operation(
        self, node: fx.Node, axes: list[Any], values: Any, options: dict[str, Any], result: Any, shape: tuple[int, ...]
    ) -> Any:
        target, x = node.target, axes[0]
        name = target if node.op == "call_method" else getattr(target, "__name__", "")
        if target in rules.UNARY or (node.op == "call_method" and target in rules.UNARY_METHODS):
            return x
        if target in rules.BINARY or (node.op == "call_method" and target in rules.BINARY_METHODS):
            return rules.broadcast([each for each in axes if each], shape)
        if target in rules.FUNCTIONAL_POOLS:
            return rules.pooled(x, shape, len(shape) - 2)
        if target is functional.scaled_dot_product_attention and len(axes) == 3:
            return rules.attention(axes[0], axes[1], axes[2], shape)
        if name in ("matmul", "bmm") and axes[1] is not None:
            return rules.matmul(x, axes[1], shape)
        if name in ("flatten", "reshape", "view", "unflatten", "squeeze", "unsqueeze"):
            return rules.reshape(x, shape)
        if name in ("transpose", "permute", "t", "movedim", "swapaxes"):
            return _reordered(x, name, values[1:])
        if name in ("mean", "sum", "amax"):
            return _reduced(x, _option(values, options, "dim"), bool(options.get("keepdim", False)))
        if name in ("expand", "repeat", "expand_as"):
            return rules.broadcast([x], shape)
        if name in ("chunk", "split"):
            dim = _option(values, options, "dim", 2) or 0
            return rules.pieces(x, dim, [part.shape[dim] for part in result])
        if name == "cat":
            parts = [self.labels[part] for part in cast("list[fx.Node]", node.args[0])]
            return rules.concatenate(parts, _option(values, options, "dim") or 0, shape)
        if name == "getitem":
            return x[values[1]] if isinstance(values[0], list | tuple) else rules.index(x, values[1], shape)
        return None


def _option(values: Any, options: dict[str, Any], name: str, place: int = 1) -> Any:
    return values[place] if len(values) > place else options.get(name)


def _reordered(axes: Axes, name: str, rest: Any) -> Axes:
    if name == "permute":
        order = rest[0] if isinstance(rest[0], list | tuple) else rest
        return [axes[i] for i in order]
    if name == "movedim":
        positions = list(range(len(axes)))
        positions.insert(rest[1] % len(axes), positions.pop(rest[0] % len(axes)))
        return [axes[i] for i in positions]
    one, other = (rest[0], rest[1]) if rest else (0, 1)
    result = list(axes)
    result[one], result[other] = result[other], result[one]
    return result


def _reduced(axes: Axes, dims: Any, keep: bool) -> Axes:
    """Means, sums and maxima do not see the order of the axis they run over."""
    chosen = range(len(axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(axes) for dim in chosen}
    return [fresh(1) if i in gone else axis for i, axis in enumerate(axes) if keep or i not in gone]


def _has_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(_has_tensor(item) for item in value))


def _leaves(labels: Any) -> list[Axes]:
    """All lists of axes in a nested structure (a list of tuples is one tensor's axes)."""
    if isinstance(labels, Mapping):
        labels = list(labels.values())
    if not isinstance(labels, list | tuple):
        return []
    if isinstance(labels, list) and all(isinstance(axis, tuple) for axis in labels):
        return [labels]
    return [axes for item in labels for axes in _leaves(item)]
