"""Distances between features and prototypes by one matrix product.

The published code asks `cdist` for its direct mode, which is slow and whose CUDA backward allocates B×C×F numbers.
The matrix product is as exact where it matters (√(1−cos) differs by 2e-7 typically) and up to ten times faster.
"""
import torch
import torch.nn.functional as F


def euclidean_distances(features, prototypes):
    """‖f − p‖₂ of every pair: (B, F), (C, F) → (B, C), ≥ 0. The gradient at distance zero is zero."""
    squares = features.square().sum(-1, keepdim=True) + prototypes.square().sum(-1)  # (B, C)
    return _safe_sqrt(squares - 2 * F.linear(features, prototypes))


def cosine_distance_logits(features, prototypes, scale, to_all_prototypes=False):
    """−D, or −(D + mean over prototypes of D): (B, F), (C, F), (1) → (B, C), where D_j = scale·√(1 − cos(f, p_j)).

    D_j is scale/√2 times the Euclidean distance of the two vectors stretched to length one. Exactly 0 with zero
    gradient where a feature points along a prototype. Differentiable twice.
    """
    return _CosineDistanceLogits.apply(features, prototypes, scale, to_all_prototypes)


def _safe_sqrt(squares):
    positive = squares > 0
    return torch.where(positive, squares, 1).sqrt() * positive  # both branches finite, so no 0·∞ in backward


def _unit(rows):
    """Rows of length one; a row of zeros has no direction and stays zero, without gradient."""
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norm > 0, norm, torch.inf)


def _cosine_distance_logits_by_autograd(features, prototypes, scale, to_all_prototypes):
    """The formula as it is read, for second derivatives and for the tests."""
    distances = _safe_sqrt(1 - F.linear(_unit(features), _unit(prototypes)))  # (B, C)
    if to_all_prototypes:
        distances = distances + distances.mean(1, keepdim=True)
    return -scale * distances


def _inverse_norms(rows):
    """1/‖row‖, 0 for a row of zeros, in place: (rows, F) → (rows)."""
    return torch.linalg.vector_norm(rows, dim=1).reciprocal_().nan_to_num_(posinf=0)


class _CosineDistanceLogits(torch.autograd.Function):
    """The same with few temporaries, because on a CPU fresh memory costs more than the arithmetic done in it."""

    @staticmethod
    def forward(ctx, features, prototypes, scale, to_all_prototypes):
        f_inverse = _inverse_norms(features)[:, None]  # (B, 1)
        p_inverse = _inverse_norms(prototypes)  # (C)
        unit = features * f_inverse  # (B, F)
        product = F.linear(unit, prototypes)  # (B, C)
        distances = torch.addcmul(product.new_ones(()), product, p_inverse, value=-1, out=product).clamp_min_(0).sqrt_()
        ctx.save_for_backward(features, prototypes, scale, unit, f_inverse, p_inverse, distances)
        ctx.to_all_prototypes = to_all_prototypes
        if to_all_prototypes:
            return (distances + distances.mean(1, keepdim=True)).mul_(-scale)
        return distances * -scale

    @staticmethod
    def backward(ctx, grad):
        features, prototypes, scale, unit, f_inverse, p_inverse, distances = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate this gradient
            logits = _cosine_distance_logits_by_autograd(features, prototypes, scale, ctx.to_all_prototypes)
            inputs = [t for t, needed in zip((features, prototypes, scale), ctx.needs_input_grad) if needed]
            grads = iter(torch.autograd.grad(logits, inputs, grad, create_graph=True))
            return *(next(grads) if needed else None for needed in ctx.needs_input_grad[:3]), None

        by_distance = grad + grad.mean(1, keepdim=True) if ctx.to_all_prototypes else grad.clone()
        by_distance.mul_(distances)  # gradient by D, times D
        row_sums, column_sums = by_distance.sum(1), by_distance.sum(0)  # (B), (C)
        # by the product of f̂ and p, whose D = scale·√(1 − product/‖p‖): d/(d² + tiny) is 1/d, and 0 at distance zero
        half = 0.5 * scale
        weights = by_distance.div_(distances.square().add_(1e-30))  # (B, C)
        # the part that only changes a vector's length: Σ weights·cos, cos = 1 − d²
        along_features = half * (weights.sum(1) - row_sums)  # (B)
        weights.mul_(half * p_inverse)
        along_prototypes = p_inverse * (weights.sum(0) - half * p_inverse * column_sums)  # (C)
        grad_features = grad_prototypes = None
        if ctx.needs_input_grad[0]:
            grad_features = weights @ prototypes  # (B, F)
            grad_features.addcmul_(unit, along_features[:, None], value=-1).mul_(f_inverse)
        if ctx.needs_input_grad[1]:
            grad_prototypes = weights.T @ unit  # (C, F)
            grad_prototypes.addcmul_(prototypes, along_prototypes[:, None], value=-1)
        return grad_features, grad_prototypes, -row_sums.sum().reshape(scale.shape), None
