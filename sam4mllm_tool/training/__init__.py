"""Fine-tuning: any multimodal model learns the dialogue by LoRA, from lessons that data/ builds."""
