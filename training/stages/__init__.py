"""What the two training stages (SFT, GRPO) share: inputs, model, launch, resume, output, measurement."""
