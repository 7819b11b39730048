"""One mesh of processes, applied from outside to a plain module. The only home of torch.distributed."""
