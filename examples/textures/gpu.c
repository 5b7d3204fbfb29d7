/* gpu: the device and what is made once; see gpu.h. */
#include "gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shaders.h"

gpu_state gpu;

void gpu_check(VkResult result, const char *what)
{
    if (result == VK_SUCCESS) return;
    fprintf(stderr, "textures: %s answered %d\n", what, (int)result);
    exit(1);
}

/* --- instance and device ---------------------------------------------------------------------------------------- */

static VKAPI_ATTR VkBool32 VKAPI_CALL complain(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                               VkDebugUtilsMessageTypeFlagsEXT types,
                                               const VkDebugUtilsMessengerCallbackDataEXT *data, void *context)
{
    (void)severity, (void)types, (void)context;
    fprintf(stderr, "validation: %s\n", data->pMessage);
    gpu.complaints++;
    return VK_FALSE;
}

static const VkDebugUtilsMessengerCreateInfoEXT listener = {
    .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
    .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
    .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT,
    .pfnUserCallback = complain,
};

static bool make_instance(void)
{
    gpu.library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (gpu.library) gpu.vkGetInstanceProcAddr = (PFN_vkGetInstanceProcAddr)dlsym(gpu.library, "vkGetInstanceProcAddr");
    if (!gpu.vkGetInstanceProcAddr) return false;
    bool validate = getenv("EXAMPLE_VALIDATION") != NULL;
    const char *layer = "VK_LAYER_KHRONOS_validation", *extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    const VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .pApplicationName = "textures",
                                           .apiVersion = VK_API_VERSION_1_3};
    const VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                       .pApplicationInfo = &application,
                                       .pNext = validate ? &listener : NULL,
                                       .enabledLayerCount = validate,
                                       .ppEnabledLayerNames = &layer,
                                       .enabledExtensionCount = validate,
                                       .ppEnabledExtensionNames = &extension};
    PFN_vkCreateInstance create = (PFN_vkCreateInstance)gpu.vkGetInstanceProcAddr(NULL, "vkCreateInstance");
    if (!create || create(&info, NULL, &gpu.instance) != VK_SUCCESS) return false;
#define X(name) gpu.name = (PFN_##name)gpu.vkGetInstanceProcAddr(gpu.instance, #name);
    GPU_INSTANCE_FUNCTIONS(X)
#undef X
    if (validate) {
        PFN_vkCreateDebugUtilsMessengerEXT listen = (PFN_vkCreateDebugUtilsMessengerEXT)gpu.vkGetInstanceProcAddr(
            gpu.instance, "vkCreateDebugUtilsMessengerEXT");
        if (listen) listen(gpu.instance, &listener, NULL, &gpu.messenger);
    }
    return true;
}

/* Takes the first device with Vulkan 1.3 and a queue for graphics. */
static bool choose_device(void)
{
    VkPhysicalDevice devices[8];
    uint32_t count = 8;
    VkResult result = gpu.vkEnumeratePhysicalDevices(gpu.instance, &count, devices);
    if (result != VK_SUCCESS && result != VK_INCOMPLETE) return false;
    for (uint32_t i = 0; i < count; i++) {
        VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
        gpu.vkGetPhysicalDeviceProperties2(devices[i], &properties);
        VkQueueFamilyProperties families[16];
        uint32_t families_count = 16;
        gpu.vkGetPhysicalDeviceQueueFamilyProperties(devices[i], &families_count, families);
        for (uint32_t f = 0; f < families_count && properties.properties.apiVersion >= VK_API_VERSION_1_3; f++)
            if (families[f].queueFlags & VK_QUEUE_GRAPHICS_BIT) {
                gpu.physical = devices[i];
                gpu.family = f;
                memcpy(gpu.name, properties.properties.deviceName, sizeof gpu.name);
                return true;
            }
    }
    return false;
}

static void make_device(void)
{
    const float priority = 1;
    const VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                           .queueFamilyIndex = gpu.family,
                                           .queueCount = 1,
                                           .pQueuePriorities = &priority};
    VkPhysicalDeviceVulkan12Features v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .timelineSemaphore = VK_TRUE};
    VkPhysicalDeviceVulkan13Features v13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES,
                                            .pNext = &v12,
                                            .synchronization2 = VK_TRUE,
                                            .dynamicRendering = VK_TRUE};
    VkPhysicalDeviceFeatures2 have = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2};
    gpu.vkGetPhysicalDeviceFeatures2(gpu.physical, &have);
    const VkPhysicalDeviceFeatures wanted = {.samplerAnisotropy = have.features.samplerAnisotropy};
    const VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                     .pNext = &v13,
                                     .queueCreateInfoCount = 1,
                                     .pQueueCreateInfos = &queue,
                                     .pEnabledFeatures = &wanted};
    gpu_check(gpu.vkCreateDevice(gpu.physical, &info, NULL, &gpu.device), "vkCreateDevice");
#define X(name) gpu.name = (PFN_##name)gpu.vkGetDeviceProcAddr(gpu.device, #name);
    GPU_DEVICE_FUNCTIONS(X)
#undef X
    gpu.vkGetDeviceQueue(gpu.device, gpu.family, 0, &gpu.queue);

    const VkSamplerCreateInfo sampler = {.sType = VK_STRUCTURE_TYPE_SAMPLER_CREATE_INFO, .magFilter = VK_FILTER_LINEAR,
                                         .minFilter = VK_FILTER_LINEAR, .mipmapMode = VK_SAMPLER_MIPMAP_MODE_LINEAR,
                                         .addressModeU = VK_SAMPLER_ADDRESS_MODE_CLAMP_TO_EDGE,
                                         .addressModeV = VK_SAMPLER_ADDRESS_MODE_CLAMP_TO_EDGE,
                                         .addressModeW = VK_SAMPLER_ADDRESS_MODE_CLAMP_TO_EDGE,
                                         .anisotropyEnable = wanted.samplerAnisotropy, .maxAnisotropy = 4,
                                         .maxLod = VK_LOD_CLAMP_NONE};
    gpu_check(gpu.vkCreateSampler(gpu.device, &sampler, NULL, &gpu.sampler), "vkCreateSampler");
}

static void make_frames(void)
{
    const VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                            .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    const VkSemaphoreCreateInfo semaphore = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    gpu_check(gpu.vkCreateSemaphore(gpu.device, &semaphore, NULL, &gpu.timeline), "vkCreateSemaphore");
    for (int i = 0; i < FRAMES_IN_FLIGHT; i++) {
        const VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                              .queueFamilyIndex = gpu.family};
        gpu_check(gpu.vkCreateCommandPool(gpu.device, &pool, NULL, &gpu.pools[i]), "vkCreateCommandPool");
        const VkCommandBufferAllocateInfo commands = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                                      .commandPool = gpu.pools[i], .commandBufferCount = 1};
        gpu_check(gpu.vkAllocateCommandBuffers(gpu.device, &commands, &gpu.commands[i]), "vkAllocateCommandBuffers");
    }
}

/* --- pipelines -------------------------------------------------------------------------------------------------- */

static VkDescriptorSetLayout make_set_layout(VkDescriptorType type, VkShaderStageFlags stages)
{
    const VkDescriptorSetLayoutBinding binding = {.descriptorType = type, .descriptorCount = 1, .stageFlags = stages};
    const VkDescriptorSetLayoutCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                                                  .bindingCount = 1, .pBindings = &binding};
    VkDescriptorSetLayout layout;
    gpu_check(gpu.vkCreateDescriptorSetLayout(gpu.device, &info, NULL, &layout), "vkCreateDescriptorSetLayout");
    return layout;
}

static void make_layouts(uint32_t tile_sets)
{
    gpu.frame_layout = make_set_layout(VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER,
                                       VK_SHADER_STAGE_VERTEX_BIT | VK_SHADER_STAGE_FRAGMENT_BIT);
    gpu.tile_layout = make_set_layout(VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER, VK_SHADER_STAGE_FRAGMENT_BIT);
    const VkDescriptorPoolSize sizes[] = {{VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER, FRAMES_IN_FLIGHT},
                                          {VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER, tile_sets}};
    const VkDescriptorPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                                             .maxSets = tile_sets + FRAMES_IN_FLIGHT,
                                             .poolSizeCount = 2,
                                             .pPoolSizes = sizes};
    gpu_check(gpu.vkCreateDescriptorPool(gpu.device, &pool, NULL, &gpu.descriptors), "vkCreateDescriptorPool");
    const VkDescriptorSetLayout sets[] = {gpu.frame_layout, gpu.tile_layout};
    const VkPushConstantRange push = {VK_SHADER_STAGE_VERTEX_BIT, 0, sizeof(gpu_tile_data)};
    const VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                               .setLayoutCount = 2,
                                               .pSetLayouts = sets,
                                               .pushConstantRangeCount = 1,
                                               .pPushConstantRanges = &push};
    gpu_check(gpu.vkCreatePipelineLayout(gpu.device, &layout, NULL, &gpu.layout), "vkCreatePipelineLayout");
}

static VkShaderModule make_module(const uint32_t *code, size_t bytes)
{
    const VkShaderModuleCreateInfo info = {.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = bytes,
                                           .pCode = code};
    VkShaderModule module;
    gpu_check(gpu.vkCreateShaderModule(gpu.device, &info, NULL, &module), "vkCreateShaderModule");
    return module;
}

static VkPipeline make_pipeline(VkShaderModule vertex, VkShaderModule fragment, VkFormat colour, VkFormat depth,
                                bool ground)
{
    const VkPipelineShaderStageCreateInfo stages[] = {{.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                                                       .stage = VK_SHADER_STAGE_VERTEX_BIT,
                                                       .module = vertex,
                                                       .pName = "main"},
                                                      {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                                                       .stage = VK_SHADER_STAGE_FRAGMENT_BIT,
                                                       .module = fragment,
                                                       .pName = "main"}};
    const VkPipelineVertexInputStateCreateInfo no_vertices = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_VERTEX_INPUT_STATE_CREATE_INFO};
    const VkPipelineInputAssemblyStateCreateInfo triangles = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_INPUT_ASSEMBLY_STATE_CREATE_INFO,
        .topology = VK_PRIMITIVE_TOPOLOGY_TRIANGLE_LIST};
    const VkPipelineViewportStateCreateInfo viewport = {.sType = VK_STRUCTURE_TYPE_PIPELINE_VIEWPORT_STATE_CREATE_INFO,
                                                        .viewportCount = 1, .scissorCount = 1};
    const VkPipelineRasterizationStateCreateInfo raster = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_RASTERIZATION_STATE_CREATE_INFO,
        .cullMode = VK_CULL_MODE_NONE,
        .lineWidth = 1};
    const VkPipelineMultisampleStateCreateInfo samples = {.sType =
                                                              VK_STRUCTURE_TYPE_PIPELINE_MULTISAMPLE_STATE_CREATE_INFO,
                                                          .rasterizationSamples = VK_SAMPLE_COUNT_1_BIT};
    const VkPipelineDepthStencilStateCreateInfo depth_test = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_DEPTH_STENCIL_STATE_CREATE_INFO, .depthTestEnable = VK_TRUE,
        .depthWriteEnable = ground, .depthCompareOp = VK_COMPARE_OP_LESS_OR_EQUAL};
    const VkPipelineColorBlendAttachmentState write_all = {.colorWriteMask = 15};
    const VkPipelineColorBlendStateCreateInfo blend = {.sType =
                                                           VK_STRUCTURE_TYPE_PIPELINE_COLOR_BLEND_STATE_CREATE_INFO,
                                                       .attachmentCount = 1,
                                                       .pAttachments = &write_all};
    const VkDynamicState dynamic[] = {VK_DYNAMIC_STATE_VIEWPORT, VK_DYNAMIC_STATE_SCISSOR};
    const VkPipelineDynamicStateCreateInfo dynamics = {.sType = VK_STRUCTURE_TYPE_PIPELINE_DYNAMIC_STATE_CREATE_INFO,
                                                       .dynamicStateCount = 2, .pDynamicStates = dynamic};
    const VkPipelineRenderingCreateInfo targets = {.sType = VK_STRUCTURE_TYPE_PIPELINE_RENDERING_CREATE_INFO,
                                                   .colorAttachmentCount = 1, .pColorAttachmentFormats = &colour,
                                                   .depthAttachmentFormat = depth};
    const VkGraphicsPipelineCreateInfo info = {.sType = VK_STRUCTURE_TYPE_GRAPHICS_PIPELINE_CREATE_INFO,
                                               .pNext = &targets,
                                               .stageCount = 2,
                                               .pStages = stages,
                                               .pVertexInputState = &no_vertices,
                                               .pInputAssemblyState = &triangles,
                                               .pViewportState = &viewport,
                                               .pRasterizationState = &raster,
                                               .pMultisampleState = &samples,
                                               .pDepthStencilState = &depth_test,
                                               .pColorBlendState = &blend,
                                               .pDynamicState = &dynamics,
                                               .layout = gpu.layout};
    VkPipeline pipeline;
    gpu_check(gpu.vkCreateGraphicsPipelines(gpu.device, VK_NULL_HANDLE, 1, &info, NULL, &pipeline),
              "vkCreateGraphicsPipelines");
    gpu.vkDestroyShaderModule(gpu.device, vertex, NULL);
    gpu.vkDestroyShaderModule(gpu.device, fragment, NULL);
    return pipeline;
}

bool gpu_open(VkFormat colour, VkFormat depth, uint32_t tile_sets)
{
    if (!make_instance() || !choose_device()) {
        fprintf(stderr, "textures: no Vulkan 1.3 device here (Debian's mesa-vulkan-drivers has one without a card)\n");
        return false;
    }
    make_device();
    make_frames();
    make_layouts(tile_sets);
    gpu.terrain = make_pipeline(make_module(shader_terrain_vert, sizeof shader_terrain_vert),
                                make_module(shader_terrain_frag, sizeof shader_terrain_frag), colour, depth, true);
    gpu.sky = make_pipeline(make_module(shader_sky_vert, sizeof shader_sky_vert),
                            make_module(shader_sky_frag, sizeof shader_sky_frag), colour, depth, false);
    return true;
}

void gpu_close(void)
{
    gpu.vkDestroyPipeline(gpu.device, gpu.terrain, NULL);
    gpu.vkDestroyPipeline(gpu.device, gpu.sky, NULL);
    gpu.vkDestroyPipelineLayout(gpu.device, gpu.layout, NULL);
    gpu.vkDestroyDescriptorPool(gpu.device, gpu.descriptors, NULL);
    gpu.vkDestroyDescriptorSetLayout(gpu.device, gpu.frame_layout, NULL);
    gpu.vkDestroyDescriptorSetLayout(gpu.device, gpu.tile_layout, NULL);
    gpu.vkDestroySampler(gpu.device, gpu.sampler, NULL);
    gpu.vkDestroySemaphore(gpu.device, gpu.timeline, NULL);
    for (int i = 0; i < FRAMES_IN_FLIGHT; i++) gpu.vkDestroyCommandPool(gpu.device, gpu.pools[i], NULL);
    gpu.vkDestroyDevice(gpu.device, NULL);
    if (gpu.messenger) {
        PFN_vkDestroyDebugUtilsMessengerEXT deafen = (PFN_vkDestroyDebugUtilsMessengerEXT)gpu.vkGetInstanceProcAddr(
            gpu.instance, "vkDestroyDebugUtilsMessengerEXT");
        deafen(gpu.instance, gpu.messenger, NULL);
    }
    gpu.vkDestroyInstance(gpu.instance, NULL);
}

/* --- frames ----------------------------------------------------------------------------------------------------- */

void gpu_wait_frame(uint64_t frame)
{
    const VkSemaphoreWaitInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO, .semaphoreCount = 1,
                                      .pSemaphores = &gpu.timeline, .pValues = &frame};
    if (frame) gpu_check(gpu.vkWaitSemaphores(gpu.device, &info, UINT64_MAX), "vkWaitSemaphores");
}

VkCommandBuffer gpu_begin(uint64_t frame)
{
    uint32_t slot = (uint32_t)(frame % FRAMES_IN_FLIGHT);
    gpu_check(gpu.vkResetCommandPool(gpu.device, gpu.pools[slot], 0), "vkResetCommandPool");
    const VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                           .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    gpu_check(gpu.vkBeginCommandBuffer(gpu.commands[slot], &info), "vkBeginCommandBuffer");
    return gpu.commands[slot];
}

void gpu_submit(uint64_t frame)
{
    VkCommandBuffer commands = gpu.commands[frame % FRAMES_IN_FLIGHT];
    gpu_check(gpu.vkEndCommandBuffer(commands), "vkEndCommandBuffer");
    const VkCommandBufferSubmitInfo buffer = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_SUBMIT_INFO,
                                              .commandBuffer = commands};
    const VkSemaphoreSubmitInfo done = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_SUBMIT_INFO, .semaphore = gpu.timeline,
                                        .value = frame, .stageMask = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT};
    const VkSubmitInfo2 info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO_2,
                                .commandBufferInfoCount = 1,
                                .pCommandBufferInfos = &buffer,
                                .signalSemaphoreInfoCount = 1,
                                .pSignalSemaphoreInfos = &done};
    gpu_check(gpu.vkQueueSubmit2(gpu.queue, 1, &info, VK_NULL_HANDLE), "vkQueueSubmit2");
}

void gpu_barrier(VkCommandBuffer commands, VkImage image, VkImageAspectFlags aspect, uint32_t first, uint32_t count,
                 VkImageLayout from, VkImageLayout to)
{
    const VkImageMemoryBarrier2 barrier = {
        .sType = VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER_2,
        .srcStageMask = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT, .srcAccessMask = VK_ACCESS_2_MEMORY_WRITE_BIT,
        .dstStageMask = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT,
        .dstAccessMask = VK_ACCESS_2_MEMORY_READ_BIT | VK_ACCESS_2_MEMORY_WRITE_BIT, .oldLayout = from, .newLayout = to,
        .srcQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED, .dstQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED, .image = image,
        .subresourceRange = {aspect, first, count, 0, 1}};
    const VkDependencyInfo info = {.sType = VK_STRUCTURE_TYPE_DEPENDENCY_INFO, .imageMemoryBarrierCount = 1,
                                   .pImageMemoryBarriers = &barrier};
    gpu.vkCmdPipelineBarrier2(commands, &info);
}
