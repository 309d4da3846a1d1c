"""Fine-tuning: any multimodal model learns the dialogue by LoRA, from the training conversations that data/ builds."""
